// `scale * table[token]`. A block computes a row.

extern "C" __global__ void NAME(const int *tokens, const IN *table, int table_stride, OUT *out, int out_stride, int width,
                                float scale) {
    const long long row = blockIdx.x;
    const IN *from = table + (long long)tokens[row] * table_stride;
    for (int i = threadIdx.x * VECTOR; i < width; i += blockDim.x * VECTOR) {
        float values[VECTOR];
        load<VECTOR>(from + i, values);
        for (int j = 0; j < VECTOR; j++) values[j] *= scale;
        store<VECTOR>(out + row * out_stride + i, values);
    }
}
