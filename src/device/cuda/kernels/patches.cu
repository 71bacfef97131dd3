// The squares of an image as rows, each in channel, row, column order. A block computes a square.

extern "C" __global__ void NAME(const float *image, int channels, int height, int width, int side, OUT *out, int out_stride) {
    const int across = width / side, down = blockIdx.x / across, right = blockIdx.x % across;
    for (int i = threadIdx.x; i < channels * side * side; i += blockDim.x) {
        const int channel = i / (side * side), y = i / side % side, x = i % side;
        const float value = image[((long long)channel * height + down * side + y) * width + right * side + x];
        out[(long long)blockIdx.x * out_stride + i] = from_f32<OUT>(value);
    }
}
