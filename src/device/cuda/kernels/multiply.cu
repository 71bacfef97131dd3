// `a * b`; the rows of b are repeated. A block computes a row.

extern "C" __global__ void NAME(const A *a, int a_stride, const B *b, int b_stride, int b_rows, OUT *out, int out_stride,
                                int width) {
    const long long row = blockIdx.x;
    for (int i = threadIdx.x * VECTOR; i < width; i += blockDim.x * VECTOR) {
        float first[VECTOR], second[VECTOR];
        load<VECTOR>(a + row * a_stride + i, first);
        load<VECTOR>(b + row % b_rows * b_stride + i, second);
        for (int j = 0; j < VECTOR; j++) first[j] *= second[j];
        store<VECTOR>(out + row * out_stride + i, first);
    }
}
