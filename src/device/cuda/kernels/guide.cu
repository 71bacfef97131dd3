// `y + strength * weight * (previous - (x + ahead * (y - x)))`: what an Euler step has made of x, drawn towards the chunk before, as
// far as each row of it counts. A block computes a row.

extern "C" __global__ void NAME(const float *x, int x_stride, const float *y, int y_stride, const float *previous,
                                int previous_stride, const float *weights, int weights_stride, float *out, int out_stride,
                                int width, float ahead, float strength) {
    const long long row = blockIdx.x;
    const float factor = strength * weights[row * weights_stride];
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        const float from = x[row * x_stride + i], to = y[row * y_stride + i];
        const float end = from + ahead * (to - from);
        out[row * out_stride + i] = to + factor * (previous[row * previous_stride + i] - end);
    }
}
