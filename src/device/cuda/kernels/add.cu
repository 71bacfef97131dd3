// `a + scale * b * gate`: sums, residuals with a gate, Euler steps. The rows of b are repeated; a gate is a row for all or for each
// (gate_stride 0 or not), or there is none. A block computes a row.

extern "C" __global__ void NAME(const A *a, int a_stride, const B *b, int b_stride, int b_rows, const float *gate,
                                int gate_stride, OUT *out, int out_stride, int width, float scale) {
    const long long row = blockIdx.x;
    a += row * a_stride;
    b += row % b_rows * b_stride;
    if (gate) gate += row * gate_stride;
    for (int i = threadIdx.x * VECTOR; i < width; i += blockDim.x * VECTOR) {
        float sums[VECTOR], added[VECTOR], gates[VECTOR];
        load<VECTOR>(a + i, sums);
        load<VECTOR>(b + i, added);
        for (int j = 0; j < VECTOR; j++) gates[j] = 1.0f;
        if (gate) load<VECTOR>(gate + i, gates);
        for (int j = 0; j < VECTOR; j++) sums[j] += scale * added[j] * gates[j];
        store<VECTOR>(out + row * out_stride + i, sums);
    }
}
