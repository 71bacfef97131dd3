// Positions of tokens: `cumsum(mask) - 1` of the masked tokens themselves (AFTER 0), or `sum(mask) + i` of those that follow them
// (AFTER 1). One block: each thread counts a stretch of the mask.

extern "C" __global__ void BLOCK_OF(256) NAME(const u8 *mask, int length, int *out, int rows) {
    SHARED_MEMORY;
    int *counts = (int *)shared_memory;
    const int stretch = (length + blockDim.x - 1) / blockDim.x;
    const int start = threadIdx.x * stretch, end = start + stretch < length ? start + stretch : length;
    int count = 0;
    for (int i = start; i < end; i++) count += mask[i] != 0;
    counts[threadIdx.x] = count;
    __syncthreads();
    int before = 0;
    const int stretches = AFTER ? blockDim.x : threadIdx.x;
    for (int other = 0; other < stretches; other++) before += counts[other];
    if (AFTER) {
        for (int i = threadIdx.x; i < rows; i += blockDim.x) out[i] = before + i;
    } else {
        for (int i = start; i < end; i++) {
            before += mask[i] != 0;
            out[i] = before - 1;
        }
    }
}
