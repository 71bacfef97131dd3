// Rotates the two halves of each head by the table's angles and splits heads: the first of them are queries, the others keys, each
// with a place of its own. Queries and keys come from one product, so one launch does both. A block computes a row.

extern "C" __global__ void NAME(const IN *x, int x_stride, const float *table, OUT *queries, int queries_stride, OUT *keys,
                                int keys_stride, int heads, int query_heads, int half) {
    const long long row = blockIdx.x;
    const float *cosines = table + 2 * half * row, *sines = cosines + half;
    const int pieces = half / VECTOR;
    for (int i = threadIdx.x; i < heads * pieces; i += blockDim.x) {
        const int head = i / pieces, at = i % pieces * VECTOR;
        const IN *from = x + row * x_stride + 2 * half * head + at;
        OUT *to = head < query_heads ? queries + row * queries_stride + 2 * half * head + at
                                     : keys + row * keys_stride + 2 * half * (head - query_heads) + at;
        float a[VECTOR], b[VECTOR], cosine[VECTOR], sine[VECTOR], first[VECTOR], second[VECTOR];
        load<VECTOR>(from, a);
        load<VECTOR>(from + half, b);
        load<VECTOR>(cosines + at, cosine);
        load<VECTOR>(sines + at, sine);
        for (int j = 0; j < VECTOR; j++) {
            first[j] = a[j] * cosine[j] - b[j] * sine[j];
            second[j] = b[j] * cosine[j] + a[j] * sine[j];
        }
        store<VECTOR>(to, first);
        store<VECTOR>(to + half, second);
    }
}
