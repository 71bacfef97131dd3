// Attention without matrix instructions, for f32 and for heads that these cannot take: `softmax(scale q k^T) v` by running maximum
// and sum, so that no score is stored. Keys are those of the past, then the rows' own; a key is seen unless the mask (over the past,
// if there is one, else over the rows' own) hides it or it stands behind the query's limit among the rows' own. A warp computes
// one query of one head; blocks (queries and heads, sequence).

#define PER_LANE ((HEAD_DIM + 31) / 32)

extern "C" __global__ void BLOCK_OF(128)
    NAME(const T *query, int query_stride, const T *key, int key_stride, const T *value, int value_stride, int own_keys,
         const T *past_key, int past_key_stride, const T *past_value, int past_value_stride, int past_keys, const u8 *mask,
         const int *limits, T *out, int out_stride, int queries, int heads, int kv_heads, float scale) {
    const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
    const int index = blockIdx.x * warps + threadIdx.x / 32;
    if (index >= queries * heads) return;
    const int head = index % heads, kv_head = head * kv_heads / heads;
    const long long row = index / heads, first_query = (long long)blockIdx.y * queries, first_key = (long long)blockIdx.y * own_keys;
    const int limit = limits ? limits[row] : own_keys;

    float q[PER_LANE], sums[PER_LANE];
    for (int j = 0; j < PER_LANE; j++) {
        const int at = lane + 32 * j;
        q[j] = at < HEAD_DIM ? to_f32(query[(first_query + row) * query_stride + head * HEAD_DIM + at]) : 0.0f;
        sums[j] = 0.0f;
    }
    float most = -INFINITY, total = 0.0f;
    for (int i = 0; i < past_keys + limit; i++) {
        const bool past = i < past_keys;
        const int own = i - past_keys;
        if (mask && (past || past_keys == 0) && !mask[past ? i : own]) continue;
        const T *k = past ? past_key + (long long)i * past_key_stride : key + (first_key + own) * key_stride;
        const T *v = past ? past_value + (long long)i * past_value_stride : value + (first_key + own) * value_stride;
        float score = 0.0f;
        for (int j = 0; j < PER_LANE; j++) {
            const int at = lane + 32 * j;
            if (at < HEAD_DIM) score += q[j] * to_f32(k[kv_head * HEAD_DIM + at]);
        }
        score = scale * warp_sum(score);
        const float larger = fmaxf(most, score), fade = expf(most - larger), weight = expf(score - larger);
        total = total * fade + weight;
        for (int j = 0; j < PER_LANE; j++) {
            const int at = lane + 32 * j;
            sums[j] = sums[j] * fade + (at < HEAD_DIM ? weight * to_f32(v[kv_head * HEAD_DIM + at]) : 0.0f);
        }
        most = larger;
    }
    for (int j = 0; j < PER_LANE; j++) {
        const int at = lane + 32 * j;
        if (at < HEAD_DIM) {
            out[(first_query + row) * out_stride + head * HEAD_DIM + at] = from_f32<T>(total == 0.0f ? 0.0f : sums[j] / total);
        }
    }
}
#undef PER_LANE
