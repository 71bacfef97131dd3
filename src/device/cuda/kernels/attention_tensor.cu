// Attention on tensor cores, in bf16 with sums in f32: `softmax(scale q k^T) v` by running maximum and sum; a score lives in
// registers only. What is seen: as in attention.cu.
//
// Rows are pairs of a query and one of the heads that share a key head, the heads of a query next to each other, as they lie in
// memory: few queries of many heads fill a tile all the same, and read the keys once. Blocks (64 rows, key head, sequence and
// split); each of the four warps has 16 rows. Few rows over many keys are spread over the GPU by splitting the keys: each split
// leaves what it has of the sum, its maximum and its weight, and attention_join.cu joins them.

#define ROWS 64
#define KEYS 32
// The matrix instructions take 16 dimensions at a time; what a head has less is 0.
#define PADDED ((HEAD_DIM + 15) / 16 * 16)
// Eight more, so that the rows of a matrix lie in different banks.
#define STRIDE (PADDED + 8)
// More than any limit: the key is seen by nobody.
#define HIDDEN 0x7fffffff

// Rows of keys or values into shared memory, 16 bytes at a time; zeros where there is none.
#define LOAD_TILE(tile, count, address)                                          \
    for (int i = threadIdx.x; i < (count) * (PADDED / 8); i += blockDim.x) {     \
        const int row = i / (PADDED / 8), at = i % (PADDED / 8) * 8;             \
        const bf16 *from = at < HEAD_DIM ? (address) : (const bf16 *)0;          \
        Sixteen piece = {{0, 0, 0, 0}};                                          \
        if (from) piece = *(const Sixteen *)(from + at);                         \
        *(Sixteen *)(tile + row * STRIDE + at) = piece;                          \
    }

extern "C" __global__ void BLOCK_OF(128)
    NAME(const bf16 *query, int query_stride, const bf16 *key, int key_stride, const bf16 *value, int value_stride, int own_keys,
         const bf16 *past_key, int past_key_stride, const bf16 *past_value, int past_value_stride, int past_keys, const u8 *mask,
         const int *limits, bf16 *out, int out_stride, int queries, int heads, int kv_heads, float scale, int splits,
         int keys_per_split, float *partial, float *weights) {
    SHARED_MEMORY;
    bf16 *query_tile = (bf16 *)shared_memory;
    bf16 *key_tile = query_tile + ROWS * STRIDE;
    bf16 *value_tile = key_tile + KEYS * STRIDE;
    // The least limit of a query that sees the key.
    int *needed = (int *)(value_tile + KEYS * STRIDE);

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int shared_by = heads / kv_heads, rows = queries * shared_by, first_row = blockIdx.x * ROWS, kv_head = blockIdx.y;
    const int sequence = blockIdx.z / splits, split = blockIdx.z % splits;
    const long long first_query = (long long)sequence * queries, first_key = (long long)sequence * own_keys;
    const int columns = kv_head * HEAD_DIM;

    LOAD_TILE(query_tile, ROWS,
              first_row + row < rows ? query + (first_query + (first_row + row) / shared_by) * query_stride +
                                           (kv_head * shared_by + (first_row + row) % shared_by) * HEAD_DIM
                                     : (const bf16 *)0)

    // The two rows of the warp's sixteen that this lane has numbers of.
    int row_of[2], limit[2];
    for (int half = 0; half < 2; half++) {
        row_of[half] = first_row + warp * 16 + lane / 4 + 8 * half;
        limit[half] = own_keys;
        if (row_of[half] >= rows) limit[half] = -1;
        else if (limits) limit[half] = limits[row_of[half] / shared_by];
    }
    float sums[PADDED / 8][4];
#pragma unroll
    for (int i = 0; i < PADDED / 8; i++)
        for (int j = 0; j < 4; j++) sums[i][j] = 0.0f;
    float most[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
    const float to_bits = scale * 1.4426950408889634f;

    const int keys = past_keys + own_keys, begin = split * keys_per_split;
    const int end = begin + keys_per_split < keys ? begin + keys_per_split : keys;
    // Address i of the keys or values, past or own, or none.
#define OF_KEY(past, past_stride, own, own_stride)                                                          \
    (start + row >= end ? (const bf16 *)0                                                                   \
     : start + row < past_keys                                                                              \
         ? past + (long long)(start + row) * past_stride + columns                                          \
         : own + (first_key + start + row - past_keys) * own_stride + columns)
    for (int start = begin; start < end; start += KEYS) {
        __syncthreads();
        LOAD_TILE(key_tile, KEYS, OF_KEY(past_key, past_key_stride, key, key_stride))
        LOAD_TILE(value_tile, KEYS, OF_KEY(past_value, past_value_stride, value, value_stride))
        if (threadIdx.x < KEYS) {
            const int i = start + threadIdx.x, own = i - past_keys;
            int need = i < past_keys ? 0 : own + 1;
            if (i >= end) need = HIDDEN;
            else if (mask && (i < past_keys || past_keys == 0) && !mask[i < past_keys ? i : own]) need = HIDDEN;
            needed[threadIdx.x] = need;
        }
        __syncthreads();

        // scores [16, KEYS] = q k^T
        float scores[KEYS / 8][4];
#pragma unroll
        for (int i = 0; i < KEYS / 8; i++)
            for (int j = 0; j < 4; j++) scores[i][j] = 0.0f;
        const int matrix = lane / 8, of_matrix = lane % 8;
#pragma unroll
        for (int depth = 0; depth < PADDED; depth += 16) {
            u32 a[4];
            load_matrices(a, query_tile + (warp * 16 + matrix % 2 * 8 + of_matrix) * STRIDE + depth + matrix / 2 * 8);
#pragma unroll
            for (int i = 0; i < KEYS / 16; i++) {
                u32 b[4];
                load_matrices(b, key_tile + (i * 16 + matrix / 2 * 8 + of_matrix) * STRIDE + depth + matrix % 2 * 8);
                multiply_add(scores[2 * i], a, b[0], b[1]);
                multiply_add(scores[2 * i + 1], a, b[2], b[3]);
            }
        }

        // Scores become weights; what was summed so far fades as the maximum grows.
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float larger = most[half];
#pragma unroll
            for (int i = 0; i < KEYS / 8; i++) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    float *score = &scores[i][2 * half + j];
                    *score = needed[i * 8 + lane % 4 * 2 + j] <= limit[half] ? *score * to_bits : -INFINITY;
                    larger = fmaxf(larger, *score);
                }
            }
            larger = fmaxf(larger, lane_xor(larger, 1));
            larger = fmaxf(larger, lane_xor(larger, 2));
            // Nothing seen yet: any finite number does.
            const float from = larger == -INFINITY ? 0.0f : larger;
            const float fade = exp2f(most[half] - from);
            most[half] = larger;
            float weight = 0.0f;
#pragma unroll
            for (int i = 0; i < KEYS / 8; i++) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    float *score = &scores[i][2 * half + j];
                    *score = exp2f(*score - from);
                    weight += *score;
                }
            }
            weight += lane_xor(weight, 1);
            weight += lane_xor(weight, 2);
            total[half] = total[half] * fade + weight;
#pragma unroll
            for (int i = 0; i < PADDED / 8; i++) {
                sums[i][2 * half] *= fade;
                sums[i][2 * half + 1] *= fade;
            }
        }

        // sums [16, PADDED] += weights v: the weights lie in the registers as the left side of a product wants them.
#pragma unroll
        for (int depth = 0; depth < KEYS; depth += 16) {
            const int i = depth / 8;
            const u32 a[4] = {
                pack_bf16(scores[i][0], scores[i][1]),
                pack_bf16(scores[i][2], scores[i][3]),
                pack_bf16(scores[i + 1][0], scores[i + 1][1]),
                pack_bf16(scores[i + 1][2], scores[i + 1][3]),
            };
#pragma unroll
            for (int n = 0; n < PADDED / 16; n++) {
                u32 b[4];
                load_matrices_transposed(
                    b, value_tile + (depth + matrix % 2 * 8 + of_matrix) * STRIDE + n * 16 + matrix / 2 * 8);
                multiply_add(sums[2 * n], a, b[0], b[1]);
                multiply_add(sums[2 * n + 1], a, b[2], b[3]);
            }
        }
    }

    for (int half = 0; half < 2; half++) {
        const int row = row_of[half];
        if (row >= rows) continue;
        const long long at_query = first_query + row / shared_by;
        const int head = kv_head * shared_by + row % shared_by;
        if (splits == 1) {
            const float factor = total[half] == 0.0f ? 0.0f : 1.0f / total[half];
            bf16 *to = out + at_query * out_stride + head * HEAD_DIM;
#pragma unroll
            for (int i = 0; i < PADDED / 8; i++) {
                const int at = i * 8 + lane % 4 * 2;
                if (at < HEAD_DIM) *(u32 *)(to + at) = pack_bf16(sums[i][2 * half] * factor, sums[i][2 * half + 1] * factor);
            }
        } else {
            const long long all = (long long)gridDim.z / splits * queries * heads;
            const long long index = split * all + at_query * heads + head;
            if (lane % 4 == 0) {
                weights[2 * index] = most[half];
                weights[2 * index + 1] = total[half];
            }
#pragma unroll
            for (int i = 0; i < PADDED / 8; i++) {
                const int at = i * 8 + lane % 4 * 2;
                if (at < HEAD_DIM) {
                    partial[index * HEAD_DIM + at] = sums[i][2 * half];
                    partial[index * HEAD_DIM + at + 1] = sums[i][2 * half + 1];
                }
            }
        }
    }
}
#undef ROWS
#undef KEYS
#undef PADDED
#undef STRIDE
#undef HIDDEN
#undef LOAD_TILE
#undef OF_KEY
