// Joins what the splits of attention_tensor.cu have left: their sums, weighted by how far their maxima are below the largest.
// A block computes one query of one head.

extern "C" __global__ void NAME(const float *partial, const float *weights, int splits, OUT *out, int out_stride, int heads) {
    const long long all = gridDim.x, index = blockIdx.x;
    float most = -INFINITY, total = 0.0f;
    for (int split = 0; split < splits; split++) most = fmaxf(most, weights[2 * (split * all + index)]);
    // No split has seen anything.
    if (most == -INFINITY) most = 0.0f;
    for (int split = 0; split < splits; split++) {
        total += weights[2 * (split * all + index) + 1] * exp2f(weights[2 * (split * all + index)] - most);
    }
    for (int at = threadIdx.x; at < HEAD_DIM; at += blockDim.x) {
        float sum = 0.0f;
        for (int split = 0; split < splits; split++) {
            sum += partial[(split * all + index) * HEAD_DIM + at] * exp2f(weights[2 * (split * all + index)] - most);
        }
        out[index / heads * out_stride + index % heads * HEAD_DIM + at] = from_f32<OUT>(total == 0.0f ? 0.0f : sum / total);
    }
}
