// Attention without matrix instructions, for f32 and for heads that these cannot take: `softmax(scale q k^T) v` by running maximum
// and sum, so that no score is stored. Keys are those of the past, then the rows' own; a key is seen unless the mask (over the past,
// if there is one, else over the rows' own) hides it or it stands behind the query's limit among the rows' own. A warp computes
// one query of one head, a key in each lane, then a dimension in each lane; blocks (queries and heads, sequence).

#define PER_LANE ((HEAD_DIM + 31) / 32)

extern "C" __global__ void BLOCK_OF(128)
    NAME(const T *query, int query_stride, const T *key, int key_stride, const T *value, int value_stride, int own_keys,
         const T *past_key, int past_key_stride, const T *past_value, int past_value_stride, int past_keys, const u8 *mask,
         const int *limits, T *out, int out_stride, int queries, int heads, int kv_heads, float scale) {
    SHARED_MEMORY;
    const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
    float *weights = (float *)shared_memory + threadIdx.x / 32 * 32;
    const int index = blockIdx.x * warps + threadIdx.x / 32;
    if (index >= queries * heads) return;
    const int head = index % heads, columns = head * kv_heads / heads * HEAD_DIM;
    const long long row = index / heads, first_query = (long long)blockIdx.y * queries, first_key = (long long)blockIdx.y * own_keys;
    const int keys = past_keys + (limits ? limits[row] : own_keys);
    const T *q = query + (first_query + row) * query_stride + head * HEAD_DIM;

    float sums[PER_LANE];
    for (int j = 0; j < PER_LANE; j++) sums[j] = 0.0f;
    float most = -INFINITY, total = 0.0f;
    for (int start = 0; start < keys; start += 32) {
        const int i = start + lane, own = i - past_keys;
        float score = -INFINITY;
        if (i < keys && !(mask && (own < 0 || past_keys == 0) && !mask[own < 0 ? i : own])) {
            const T *k = own < 0 ? past_key + (long long)i * past_key_stride : key + (first_key + own) * key_stride;
            score = 0.0f;
            for (int at = 0; at < HEAD_DIM; at++) score += to_f32(q[at]) * to_f32(k[columns + at]);
            score *= scale;
        }
        float larger = fmaxf(most, score);
        for (int bits = 16; bits > 0; bits /= 2) larger = fmaxf(larger, lane_xor(larger, bits));
        // Nothing seen yet: any finite number does.
        const float from = larger == -INFINITY ? 0.0f : larger, fade = expf(most - from), weight = expf(score - from);
        most = larger;
        total = total * fade + warp_sum(weight);
        sync_warp();
        weights[lane] = weight;
        sync_warp();
        for (int j = 0; j < PER_LANE; j++) sums[j] *= fade;
        for (int other = 0; other < 32 && start + other < keys; other++) {
            // Hidden keys weigh nothing, whatever their values are.
            if (weights[other] == 0.0f) continue;
            const int place = start + other;
            const T *v = place < past_keys ? past_value + (long long)place * past_value_stride
                                           : value + (first_key + place - past_keys) * value_stride;
            for (int j = 0; j < PER_LANE; j++) {
                const int at = lane + 32 * j;
                if (at < HEAD_DIM) sums[j] += weights[other] * to_f32(v[columns + at]);
            }
        }
    }
    for (int j = 0; j < PER_LANE; j++) {
        const int at = lane + 32 * j;
        if (at < HEAD_DIM) {
            out[(first_query + row) * out_stride + head * HEAD_DIM + at] = from_f32<T>(total == 0.0f ? 0.0f : sums[j] / total);
        }
    }
}
#undef PER_LANE
