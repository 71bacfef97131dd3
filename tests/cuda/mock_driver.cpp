// Stands for NVIDIA's driver, libcuda.so: memory of a "GPU" is memory of the host, a stream is a list of what waits to be done, and
// kernels are those that mock_nvrtc.cpp has compiled for the CPU. Nothing of a stream is done before somebody waits for it, so
// that a wait that is missing shows. What a test wants of it: the functions mock_*.
//
// Only what src/device/cuda/driver calls; types are the driver's own, as plain numbers and pointers.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <functional>
#include <map>
#include <string>
#include <unistd.h>
#include <vector>

typedef std::function<int()> Task;
typedef int (*Launch)(const char *, const unsigned *, unsigned, unsigned, void *const *, const size_t *, char *, size_t);

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700 };

struct Graph {
    std::vector<Task> tasks;
    std::vector<int> kinds; // 0 kernel, 1 copy
};

static std::vector<Task> waiting;
static Graph *captured;
static std::map<void *, size_t> memory, pinned;
static int capability[2] = {9, 0}, gpus = 1, broken = 0, contexts = 0;
static size_t total = (size_t)8 << 30;
static long launches = 0, graph_starts = 0, transfers = 0, objects = 0;

static size_t used() {
    size_t sum = 0;
    for (auto &each : memory) sum += each.second;
    return sum;
}

// A kernel (0) or a copy (1) is given to the stream.
extern "C" void mock_submit(int kind, Task *task) {
    if (captured) {
        captured->tasks.push_back(*task);
        captured->kinds.push_back(kind);
    } else {
        waiting.push_back(*task);
    }
}

static int finish() {
    if (broken) return ILLEGAL_ADDRESS;
    std::vector<Task> tasks;
    tasks.swap(waiting);
    for (auto &task : tasks)
        if (int error = task()) return broken = 1, error;
    return SUCCESS;
}

extern "C" {

// What tests set and ask.
void mock_capability(int major, int minor) { capability[0] = major, capability[1] = minor; }
void mock_total_memory(size_t bytes) { total = bytes; }
void mock_break() { broken = 1; }
size_t mock_in_use() { return used() + pinned.size() + objects + contexts; }
long mock_launches() { return launches; }
long mock_graph_starts() { return graph_starts; }
long mock_transfers() { return transfers; }

int cuInit(unsigned) { return gpus ? SUCCESS : NO_DEVICE; }
int cuDeviceGetCount(int *count) { return *count = gpus, SUCCESS; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, ordinal < gpus ? SUCCESS : INVALID_DEVICE; }
int cuDeviceGetName(char *name, int length, int) { return snprintf(name, length, "Mock GPU"), SUCCESS; }
int cuDeviceGetAttribute(int *value, int attribute, int) {
    // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
    if (attribute != 75 && attribute != 76) return INVALID_VALUE;
    return *value = capability[attribute - 75], SUCCESS;
}
int cuDevicePrimaryCtxRetain(void **context, int) { return contexts++, *context = &contexts, SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int) { return contexts--, SUCCESS; }
int cuDevicePrimaryCtxReset_v2(int) {
    broken = 0;
    waiting.clear();
    for (auto &each : memory) free(each.first);
    memory.clear();
    return SUCCESS;
}
int cuCtxSetCurrent(void *) { return SUCCESS; }
int cuCtxSynchronize() { return finish(); }

int cuStreamCreate(void **stream, unsigned) { return objects++, *stream = &waiting, SUCCESS; }
int cuStreamDestroy_v2(void *) { return objects--, SUCCESS; }
int cuStreamSynchronize(void *) { return finish(); }

int cuMemGetInfo_v2(size_t *available, size_t *all) { return *all = total, *available = total - used(), SUCCESS; }
int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    if (used() + bytes > total) return OUT_OF_MEMORY;
    // As round as the driver's, and full of no-numbers.
    void *made = aligned_alloc(256, (bytes + 255) / 256 * 256);
    memset(made, 0xff, bytes);
    memory[made] = bytes;
    return *address = (uint64_t)made, SUCCESS;
}
int cuMemFree_v2(uint64_t address) {
    if (broken) return ILLEGAL_ADDRESS;
    if (!memory.erase((void *)address)) return INVALID_VALUE;
    return free((void *)address), SUCCESS;
}
int cuMemHostAlloc(void **address, size_t bytes, unsigned) {
    *address = calloc(bytes, 1);
    pinned[*address] = bytes;
    return SUCCESS;
}
int cuMemFreeHost(void *address) {
    if (!pinned.erase(address)) return INVALID_VALUE;
    return free(address), SUCCESS;
}

// Whether so many bytes from an address on lie in one piece of memory of the GPU.
int mock_is_memory(const void *from, size_t bytes) {
    auto next = memory.upper_bound((void *)from);
    if (next == memory.begin()) return 0;
    --next;
    return (const char *)from + bytes <= (const char *)next->first + next->second;
}

int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes) {
    if (broken) return ILLEGAL_ADDRESS;
    if (!mock_is_memory((void *)to, bytes)) return INVALID_VALUE;
    return memcpy((void *)to, from, bytes), SUCCESS;
}
static int copy_later(void *to, const void *from, size_t bytes, const void *of_gpu, const void *of_host) {
    if (!mock_is_memory(of_gpu, bytes) || !pinned.count((void *)of_host)) return INVALID_VALUE;
    Task task = [=] { return transfers++, memcpy(to, from, bytes), SUCCESS; };
    return mock_submit(1, &task), SUCCESS;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *) {
    return copy_later((void *)to, from, bytes, (void *)to, from);
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *) {
    return copy_later(to, (void *)from, bytes, (void *)from, to);
}

struct Module {
    void *library;
    std::string file;
    Launch launch;
};
struct Function {
    Module *module;
    std::string name;
    int shared_bytes;
};

int cuModuleLoadData(void **module, const void *image) {
    // mock_nvrtc.cpp has put the length into the spare bytes of the ELF header.
    size_t length = 0;
    memcpy(&length, (const char *)image + 9, 7);
    char file[] = "/tmp/mock_kernels_XXXXXX";
    int handle = mkstemp(file);
    // Where loaders want zeros.
    std::string plain((const char *)image, length);
    memset(&plain[9], 0, 7);
    if (write(handle, plain.data(), length) != (ssize_t)length) return INVALID_VALUE;
    close(handle);
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library) return fprintf(stderr, "%s\n", dlerror()), INVALID_VALUE;
    objects++;
    *module = new Module{library, file, (Launch)dlsym(library, "machine_launch")};
    return SUCCESS;
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
    Module *of = (Module *)module;
    if (!dlsym(of->library, name)) return NOT_FOUND;
    return *function = new Function{of, name, 48 << 10}, SUCCESS;
}
int cuModuleUnload(void *module) {
    Module *of = (Module *)module;
    dlclose(of->library);
    unlink(of->file.c_str());
    objects--;
    delete of;
    return SUCCESS;
}
int cuFuncSetAttribute(void *function, int attribute, int value) {
    // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES; no GPU from sm_80 on has less than 99 KB.
    if (attribute != 8 || value > 99 << 10) return INVALID_VALUE;
    return ((Function *)function)->shared_bytes = value, SUCCESS;
}
int cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned ty, unsigned tz, unsigned shared,
                   void *, void **given, void **) {
    Function *of = (Function *)function;
    if (broken) return ILLEGAL_ADDRESS;
    if (!x || !y || !z || y > 65535 || z > 65535 || threads > 1024 || ty != 1 || tz != 1) return INVALID_VALUE;
    if ((int)shared > of->shared_bytes) return INVALID_VALUE;
    // Arguments are copied now; how many there are and how large they are, the kernel knows.
    typedef unsigned (*Count)(const char *);
    const unsigned count = ((Count)dlsym(of->module->library, "machine_count"))(of->name.c_str());
    std::vector<uint64_t> words(count);
    for (unsigned i = 0; i < count; i++) memcpy(&words[i], given[i], 8); // Ours are all in words of eight bytes.
    Task task = [=] {
        std::vector<uint64_t> own = words;
        std::vector<void *> pointers;
        for (auto &word : own) pointers.push_back(&word);
        const unsigned grid[3] = {x, y, z};
        char message[256] = "";
        launches++;
        if (!of->module->launch(of->name.c_str(), grid, threads, shared, pointers.data(), 0, message, sizeof message))
            return (int)SUCCESS;
        return fprintf(stderr, "%s: %s\n", of->name.c_str(), message), (int)ILLEGAL_ADDRESS;
    };
    return mock_submit(0, &task), SUCCESS;
}

int cuStreamBeginCapture_v2(void *, int) { return captured = new Graph, SUCCESS; }
int cuStreamEndCapture(void *, void **graph) { return *graph = captured, captured = 0, objects++, SUCCESS; }
int cuGraphGetNodes(void *graph, void **nodes, size_t *count) {
    Graph *of = (Graph *)graph;
    if (nodes)
        for (size_t i = 0; i < *count; i++) nodes[i] = &of->kinds[i];
    return *count = of->kinds.size(), SUCCESS;
}
int cuGraphNodeGetType(void *node, int *kind) { return *kind = *(int *)node, SUCCESS; }
int cuGraphInstantiateWithFlags(void **ready, void *graph, unsigned long long) {
    return *ready = new Graph(*(Graph *)graph), objects++, SUCCESS;
}
int cuGraphDestroy(void *graph) { return delete (Graph *)graph, objects--, SUCCESS; }
int cuGraphExecDestroy(void *graph) { return delete (Graph *)graph, objects--, SUCCESS; }
int cuGraphUpload(void *, void *) { return SUCCESS; }
int cuGraphLaunch(void *graph, void *) {
    if (broken) return ILLEGAL_ADDRESS;
    graph_starts++;
    for (auto &task : ((Graph *)graph)->tasks) waiting.push_back(task);
    return SUCCESS;
}

int cuEventCreate(void **event, unsigned) { return *event = new int, objects++, SUCCESS; }
int cuEventDestroy_v2(void *event) { return delete (int *)event, objects--, SUCCESS; }
int cuEventRecord(void *, void *) { return SUCCESS; }
int cuEventSynchronize(void *) { return finish(); }
int cuEventElapsedTime(float *ms, void *, void *) { return *ms = 0.25f, SUCCESS; }

int cuGetErrorName(int error, const char **text) {
    *text = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : error == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR";
    return SUCCESS;
}
int cuGetErrorString(int error, const char **text) { return cuGetErrorName(error, text); }
}
