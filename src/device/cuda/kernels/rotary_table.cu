// Cosines, then sines, of `position * frequency`: a row for each position. A block computes a row.

extern "C" __global__ void NAME(const int *positions, const float *frequencies, float *out, int half) {
    const long long row = blockIdx.x;
    for (int i = threadIdx.x; i < half; i += blockDim.x) {
        const float angle = (float)positions[row] * frequencies[i];
        out[2 * half * row + i] = cosf(angle);
        out[2 * half * row + half + i] = sinf(angle);
    }
}
