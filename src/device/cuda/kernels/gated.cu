// `ACTIVATION(gate) * up`, both halves of the same rows: one product has made them. Blocks (row, piece of the row).

extern "C" __global__ void NAME(const IN *x, int x_stride, OUT *out, int out_stride, int width) {
    const long long row = blockIdx.x;
    const IN *gate = x + row * x_stride, *up = gate + width;
    for (int i = (blockIdx.y * blockDim.x + threadIdx.x) * VECTOR; i < width; i += gridDim.y * blockDim.x * VECTOR) {
        float gates[VECTOR], ups[VECTOR];
        load<VECTOR>(gate + i, gates);
        load<VECTOR>(up + i, ups);
        for (int j = 0; j < VECTOR; j++) gates[j] = ACTIVATION(gates[j]) * ups[j];
        store<VECTOR>(out + row * out_stride + i, gates);
    }
}
