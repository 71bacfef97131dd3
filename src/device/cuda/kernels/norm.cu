// A norm of each row: LayerNorm (CENTRED 1), `(x - mean) / sqrt(var + epsilon) * weight + shift`, or RMSNorm (CENTRED 0),
// `x / sqrt(mean(x^2) + epsilon) * (1 + weight) + shift`, whose weight and shift may differ from row to row (adaRMS).
// A block computes a row.

extern "C" __global__ void BLOCK_OF(256)
    NAME(const IN *x, int x_stride, const float *weight, int weight_stride, const float *shift, int shift_stride, OUT *out,
         int out_stride, int width, float epsilon) {
    SHARED_MEMORY;
    float *scratch = (float *)shared_memory;
    long long row = blockIdx.x;
    x += row * x_stride;
    weight += row * weight_stride;
    if (shift) shift += row * shift_stride;
    out += row * out_stride;
    const int stride = blockDim.x * VECTOR;

    float mean = 0.0f;
    if (CENTRED) {
        float sum = 0.0f;
        for (int i = threadIdx.x * VECTOR; i < width; i += stride) {
            float values[VECTOR];
            load<VECTOR>(x + i, values);
            for (int j = 0; j < VECTOR; j++) sum += values[j];
        }
        mean = block_sum(sum, scratch) / width;
    }
    float squares = 0.0f;
    for (int i = threadIdx.x * VECTOR; i < width; i += stride) {
        float values[VECTOR];
        load<VECTOR>(x + i, values);
        for (int j = 0; j < VECTOR; j++) squares += (values[j] - mean) * (values[j] - mean);
    }
    const float scale = 1.0f / sqrtf(block_sum(squares, scratch) / width + epsilon);
    for (int i = threadIdx.x * VECTOR; i < width; i += stride) {
        float values[VECTOR], weights[VECTOR], shifts[VECTOR];
        load<VECTOR>(x + i, values);
        load<VECTOR>(weight + i, weights);
        for (int j = 0; j < VECTOR; j++) shifts[j] = 0.0f;
        if (shift) load<VECTOR>(shift + i, shifts);
        for (int j = 0; j < VECTOR; j++) {
            const float factor = CENTRED ? weights[j] : 1.0f + weights[j];
            values[j] = (values[j] - mean) * scale * factor + shifts[j];
        }
        store<VECTOR>(out + i, values);
    }
}
