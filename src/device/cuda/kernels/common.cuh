// What several kernels use: elements as f32 and back, several of them at a time, sums over a block, activations.

// 8 or 16 bytes that are read and written at once.
struct __align__(8) Eight {
    u32 words[2];
};
struct __align__(16) Sixteen {
    u32 words[4];
};
template <int BYTES> struct Word;
template <> struct Word<1> { typedef u8 Type; };
template <> struct Word<2> { typedef unsigned short Type; };
template <> struct Word<4> { typedef u32 Type; };
template <> struct Word<8> { typedef Eight Type; };
template <> struct Word<16> { typedef Sixteen Type; };

__device__ __forceinline__ float to_f32(float x) { return x; }
// Positions and truth values are whole numbers that f32 has.
__device__ __forceinline__ float to_f32(int x) { return (float)x; }
__device__ __forceinline__ float to_f32(u8 x) { return (float)x; }
__device__ __forceinline__ float to_f32(bf16 x) { return as_f32((u32)x.bits << 16); }

template <typename T> __device__ __forceinline__ T from_f32(float x);
template <> __device__ __forceinline__ float from_f32<float>(float x) { return x; }
template <> __device__ __forceinline__ int from_f32<int>(float x) { return (int)x; }
template <> __device__ __forceinline__ u8 from_f32<u8>(float x) { return (u8)x; }
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float x) { return round_bf16(x); }

// As many of COUNT elements as are read or written at once: all of them, or 16 bytes.
template <int COUNT, typename T> union Piece {
    enum { BYTES = COUNT * sizeof(T) < 16 ? COUNT * sizeof(T) : 16, EACH = BYTES / sizeof(T) };
    typename Word<BYTES>::Type word;
    T elements[EACH];
};

// COUNT elements that lie together, at an address that is a multiple of their size or of 16 bytes.
template <int COUNT, typename T> __device__ __forceinline__ void load(const T *from, float (&out)[COUNT]) {
    typedef Piece<COUNT, T> Read;
#pragma unroll
    for (int start = 0; start < COUNT; start += Read::EACH) {
        Read read;
        read.word = *(const decltype(read.word) *)(from + start);
#pragma unroll
        for (int i = 0; i < Read::EACH; i++) out[start + i] = to_f32(read.elements[i]);
    }
}

template <int COUNT, typename T> __device__ __forceinline__ void store(T *to, const float (&values)[COUNT]) {
    typedef Piece<COUNT, T> Written;
#pragma unroll
    for (int start = 0; start < COUNT; start += Written::EACH) {
        Written written;
#pragma unroll
        for (int i = 0; i < Written::EACH; i++) written.elements[i] = from_f32<T>(values[start + i]);
        *(decltype(written.word) *)(to + start) = written.word;
    }
}

// The sum of all lanes of a warp, in each of them.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int bits = 16; bits > 0; bits /= 2) x += lane_xor(x, bits);
    return x;
}

// The sum over a block, in each thread. `scratch` has a number for each warp.
__device__ __forceinline__ float block_sum(float x, float *scratch) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0.0f;
    for (int warp = 0; warp < (int)blockDim.x / 32; warp++) sum += scratch[warp];
    __syncthreads();
    return sum;
}

// 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
__device__ __forceinline__ float gelu(float x) {
    return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}

// x / (1 + exp(-x))
__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }
