// `ACTIVATION(x)` element by element. A block computes a row.

extern "C" __global__ void NAME(const IN *x, int x_stride, OUT *out, int out_stride, int width) {
    const long long row = blockIdx.x;
    for (int i = threadIdx.x * VECTOR; i < width; i += blockDim.x * VECTOR) {
        float values[VECTOR];
        load<VECTOR>(x + row * x_stride + i, values);
        for (int j = 0; j < VECTOR; j++) values[j] = ACTIVATION(values[j]);
        store<VECTOR>(out + row * out_stride + i, values);
    }
}
