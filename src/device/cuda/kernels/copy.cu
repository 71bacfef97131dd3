// A matrix in another place or type; its rows are repeated as often as there are blocks. A block copies a row.

extern "C" __global__ void NAME(const IN *x, int x_stride, int x_rows, OUT *out, int out_stride, int width) {
    const long long row = blockIdx.x;
    const IN *from = x + row % x_rows * x_stride;
    for (int i = threadIdx.x * VECTOR; i < width; i += blockDim.x * VECTOR) {
        float values[VECTOR];
        load<VECTOR>(from + i, values);
        store<VECTOR>(out + row * out_stride + i, values);
    }
}
