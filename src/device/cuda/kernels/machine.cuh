// What only a GPU has: rounding to bf16, shuffles, matrix instructions. The rest of the kernels is plain C++, so that a test can
// put loops and fibres in the place of this file (tests/cuda/machine.h) and run them on a CPU. Needs no header of CUDA's.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned char u8;

#define INFINITY __int_as_float(0x7f800000)

struct bf16 {
    unsigned short bits;
};

// The block's shared memory; its size comes with the launch.
#define SHARED_MEMORY extern __shared__ __align__(16) unsigned char shared_memory[]
#define BLOCK_OF(threads) __launch_bounds__(threads)

__device__ __forceinline__ float as_f32(u32 bits) { return __uint_as_float(bits); }

// To the nearest, ties to even.
__device__ __forceinline__ bf16 round_bf16(float x) {
    bf16 rounded;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(x));
    return rounded;
}

// Two rounded numbers in one word, the first in its lower half.
__device__ __forceinline__ u32 pack_bf16(float first, float second) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(second), "f"(first));
    return packed;
}

// The value that the lane whose number differs by `bits` has.
__device__ __forceinline__ float lane_xor(float x, int bits) { return __shfl_xor_sync(0xffffffffu, x, bits); }

// Waits until all lanes of the warp are here.
__device__ __forceinline__ void sync_warp() { __syncwarp(0xffffffffu); }

__device__ __forceinline__ u32 shared_address(const void *pointer) {
    u32 address;
    asm("{ .reg .u64 wide; cvta.to.shared.u64 wide, %1; cvt.u32.u64 %0, wide; }" : "=r"(address) : "l"(pointer));
    return address;
}

// Four matrices of 8 x 8 out of shared memory: lanes 8i to 8i + 7 give the addresses of the rows of matrix i, and each lane gets
// of each matrix row lane / 4, columns 2 (lane % 4) and the next.
__device__ __forceinline__ void load_matrices(u32 (&out)[4], const bf16 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same, each matrix transposed.
__device__ __forceinline__ void load_matrices_transposed(u32 (&out)[4], const bf16 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// sums [16, 8] += a [16, 16] b [16, 8] in the fragments of mma.m16n8k16.
__device__ __forceinline__ void multiply_add(float (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
