// Stands for cuBLASLt: products by plain loops, columns first as there, given to the stream of mock_driver.cpp. It offers two ways of
// which the first refuses, and refuses what cuBLASLt is documented to refuse: a bias or an addend of another type than the result's,
// a GELU of anything but bf16, strides less than rows.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

typedef std::function<int()> Task;
extern "C" void mock_submit(void *stream, int kind, Task *task);
extern "C" int mock_is_memory(const void *from, size_t bytes);

enum { SUCCESS = 0, INVALID = 7, NOT_SUPPORTED = 15 };
enum { F32 = 0, BF16 = 14 };

struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t stride;
    size_t bytes() const { return ((columns - 1) * stride + rows) * (type == BF16 ? 2 : 4); }
};
struct Operation {
    int compute, transposed, epilogue;
    const void *bias;
};
struct Way {
    uint64_t data[8];
};
struct Result {
    Way way;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

static float number(const void *from, int type, size_t index) {
    float value;
    uint32_t bits;
    if (type == F32) return ((const float *)from)[index];
    bits = (uint32_t)((const uint16_t *)from)[index] << 16;
    return memcpy(&value, &bits, 4), value;
}
static void put(void *to, int type, size_t index, float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (type == F32) ((float *)to)[index] = value;
    else if ((bits & 0x7fffffff) > 0x7f800000) ((uint16_t *)to)[index] = bits >> 16 | 0x40;
    else ((uint16_t *)to)[index] = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

extern "C" {
size_t cublasLtGetVersion() { return 120900; }
int cublasLtCreate(void **handle) { return *handle = new int, SUCCESS; }
int cublasLtDestroy(void *handle) { return delete (int *)handle, SUCCESS; }
int cublasLtMatrixLayoutCreate(void **layout, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    if (stride < (int64_t)rows) return INVALID;
    return *layout = new Layout{type, rows, columns, stride}, SUCCESS;
}
int cublasLtMatrixLayoutDestroy(void *layout) { return delete (Layout *)layout, SUCCESS; }
int cublasLtMatmulDescCreate(void **operation, int compute, int) {
    return *operation = new Operation{compute, 0, 1, 0}, SUCCESS;
}
int cublasLtMatmulDescDestroy(void *operation) { return delete (Operation *)operation, SUCCESS; }
int cublasLtMatmulDescSetAttribute(void *operation, int attribute, const void *value, size_t size) {
    Operation *of = (Operation *)operation;
    if (attribute == 3 && size == 4) return memcpy(&of->transposed, value, 4), SUCCESS;
    if (attribute == 7 && size == 4) return memcpy(&of->epilogue, value, 4), SUCCESS;
    if (attribute == 8 && size == 8) return memcpy(&of->bias, value, 8), SUCCESS;
    return INVALID;
}
int cublasLtMatmulPreferenceCreate(void **preference) { return *preference = new int, SUCCESS; }
int cublasLtMatmulPreferenceDestroy(void *preference) { return delete (int *)preference, SUCCESS; }
int cublasLtMatmulPreferenceSetAttribute(void *, int attribute, const void *, size_t size) {
    return (attribute == 1 && size == 8) || (attribute >= 5 && attribute <= 8 && size == 4) ? SUCCESS : INVALID;
}
int cublasLtMatmulAlgoGetHeuristic(void *, void *operation, void *a, void *b, void *c, void *d, void *, int wanted, Result *found,
                                   int *count) {
    const Operation *of = (Operation *)operation;
    const Layout *A = (Layout *)a, *B = (Layout *)b, *C = (Layout *)c, *D = (Layout *)d;
    *count = 0;
    if (A->type != B->type || C->type != D->type || (of->epilogue & 32 && D->type != BF16) || (A->type == F32 && D->type == BF16))
        return NOT_SUPPORTED;
    if (A->rows != B->rows || A->columns != D->rows || B->columns != D->columns || of->transposed != 1) return INVALID;
    for (int i = 0; i < 2 && i < wanted; i++) {
        memset(&found[i], 0, sizeof found[i]);
        found[i].way.data[0] = i;
        (*count)++;
    }
    return SUCCESS;
}
int cublasLtMatmul(void *, void *operation, const void *alpha, const void *a, void *al, const void *b, void *bl, const void *beta,
                   const void *c, void *cl, void *d, void *dl, const Way *way, void *workspace, size_t bytes, void *stream) {
    if (!way || way->data[0] == 0) return NOT_SUPPORTED;
    const Operation of = *(Operation *)operation;
    const Layout A = *(Layout *)al, B = *(Layout *)bl, C = *(Layout *)cl, D = *(Layout *)dl;
    const float scale = *(float *)alpha, keep = *(float *)beta;
    if (!mock_is_memory(a, A.bytes()) || !mock_is_memory(b, B.bytes()) || !mock_is_memory(c, C.bytes()) ||
        !mock_is_memory(d, D.bytes()) || !mock_is_memory(workspace, bytes))
        return INVALID;
    if (of.epilogue & 4 && !mock_is_memory(of.bias, D.rows * (D.type == BF16 ? 2 : 4))) return INVALID;
    Task task = [=] {
        for (uint64_t column = 0; column < D.columns; column++)
            for (uint64_t row = 0; row < D.rows; row++) {
                double sum = 0;
                for (uint64_t k = 0; k < A.rows; k++)
                    sum += number(a, A.type, row * A.stride + k) * number(b, B.type, column * B.stride + k);
                float value = scale * (float)sum;
                if (keep != 0) value += keep * number(c, C.type, column * C.stride + row);
                if (of.epilogue & 4) value += number(of.bias, D.type, row);
                if (of.epilogue & 32) value = 0.5f * value * (1 + tanhf(0.79788456f * (value + 0.044715f * value * value * value)));
                put(d, D.type, column * D.stride + row, value);
            }
        return 0;
    };
    return mock_submit(stream, 0, &task), SUCCESS;
}
}
