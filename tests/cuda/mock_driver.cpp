// Stands for NVIDIA's driver, libcuda.so: memory of a "GPU" is memory of the host, a stream is a list of what waits to be done, and
// kernels are those that mock_nvrtc.cpp has compiled for the CPU. Nothing of a stream is done before somebody waits for it, so
// that a wait that is missing shows; and where several streams may go on, a test says which goes first. Time is counted: each thing
// that is done takes a microsecond. What a test wants of it: the functions mock_*.
//
// Only what src/device/cuda/driver calls; types are the driver's own, as plain numbers and pointers.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <dlfcn.h>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unistd.h>
#include <vector>

typedef std::function<int()> Task;
typedef int (*Launch)(const char *, const unsigned *, unsigned, unsigned, void *const *, const size_t *, char *, size_t);

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700
};

struct Stream;
struct State {
    Stream *stream = 0;
    long recorded = 0, reached = 0; // how often
    long us = 0;
};
typedef std::shared_ptr<State> Event;

enum Kind { KERNEL = 0, COPY = 1, RECORD = 7, WAIT = 8 }; // the first three as nodes of a graph are numbered
struct Item {
    int kind;
    Task task;
    Event event;
    long number;    // the record of the event that this is, or that it waits for
    Stream *stream; // where that is
};
struct Stream {
    std::deque<Item> waiting;
};
struct Graph {
    std::vector<Item> items;
};

static std::set<Stream *> streams;
static Graph *captured;
static Stream *capturing;
static std::map<void *, size_t> memory, pinned;
static int capability[2] = {9, 0}, gpus = 1, broken = 0, contexts = 0, eager = 0;
static size_t total = (size_t)8 << 30;
static long launches = 0, graph_starts = 0, transfers = 0, objects = 0, waits = 0, now_us = 0, fails_after = -1;

static size_t used() {
    size_t sum = 0;
    for (auto &each : memory) sum += each.second;
    return sum;
}

static void submit(Stream *stream, Item item) {
    if (captured && stream == capturing) return captured->items.push_back(item);
    if (item.kind == RECORD) {
        item.event->stream = stream;
        item.number = ++item.event->recorded;
    }
    stream->waiting.push_back(item);
}

// A kernel (0) or a copy (1) is given to a stream.
extern "C" void mock_submit(void *stream, int kind, Task *task) { submit((Stream *)stream, Item{kind, *task, 0, 0, 0}); }

// Does what a stream was given, until an event is reached if one is named. What it waits for in others is done first, unless it is
// to stop there.
static int advance(Stream *stream, bool stops, const Event &until, long number) {
    while (!stream->waiting.empty() && !(until && until->reached >= number)) {
        const Item item = stream->waiting.front();
        if (item.kind == WAIT && item.event->reached < item.number) {
            if (stops) return SUCCESS;
            if (int error = advance(item.stream, false, item.event, item.number)) return error;
        }
        stream->waiting.pop_front();
        now_us++;
        if (item.kind == RECORD) item.event->reached = item.number, item.event->us = now_us;
        if (!item.task) continue;
        const int error = fails_after == 0 ? (int)ILLEGAL_ADDRESS : item.task();
        if (fails_after >= 0) fails_after--;
        if (error) return broken = 1, error;
    }
    return SUCCESS;
}

static int finish(Stream *stream, const Event &until = 0, long number = 0) {
    if (broken) return ILLEGAL_ADDRESS;
    for (Stream *other : streams)
        if (eager && other != stream)
            if (int error = advance(other, true, 0, 0)) return error;
    return advance(stream, false, until, number);
}

extern "C" {

// What tests set and ask.
void mock_capability(int major, int minor) { capability[0] = major, capability[1] = minor; }
void mock_total_memory(size_t bytes) { total = bytes; }
void mock_break() { broken = 1; }
// So many more kernels and copies are done before one fails.
void mock_fail_after(int count, int) { fails_after = count; }
// Streams that nobody waits for go as far as they can before the one that is waited for, or only as far as they must.
void mock_eager(int others, int) { eager = others; }
// How often the host waited for something that was not done.
long mock_waits() { return waits; }
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
    for (Stream *stream : streams) stream->waiting.clear();
    for (auto &each : memory) free(each.first);
    memory.clear();
    return SUCCESS;
}
int cuCtxSetCurrent(void *) { return SUCCESS; }
int cuCtxSynchronize() {
    if (broken) return ILLEGAL_ADDRESS;
    for (Stream *stream : streams)
        if (int error = advance(stream, false, 0, 0)) return error;
    return SUCCESS;
}

int cuStreamCreate(void **stream, unsigned) {
    Stream *made = new Stream;
    streams.insert(made);
    return objects++, *stream = made, SUCCESS;
}
int cuStreamDestroy_v2(void *stream) {
    if (!streams.erase((Stream *)stream)) return INVALID_HANDLE;
    return delete (Stream *)stream, objects--, SUCCESS;
}
int cuStreamSynchronize(void *stream) {
    waits += !((Stream *)stream)->waiting.empty();
    return finish((Stream *)stream);
}
int cuStreamWaitEvent(void *stream, void *event, unsigned) {
    const Event &of = *(Event *)event;
    if (of->recorded) submit((Stream *)stream, Item{WAIT, 0, of, of->recorded, of->stream});
    return SUCCESS;
}

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
static int copy_later(void *to, const void *from, size_t bytes, const void *of_gpu, const void *of_host, void *stream) {
    if (!mock_is_memory(of_gpu, bytes) || !pinned.count((void *)of_host)) return INVALID_VALUE;
    Task task = [=] { return transfers++, memcpy(to, from, bytes), SUCCESS; };
    return mock_submit(stream, COPY, &task), SUCCESS;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    return copy_later((void *)to, from, bytes, (void *)to, from, stream);
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    return copy_later(to, (void *)from, bytes, (void *)from, to, stream);
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
                   void *stream, void **given, void **) {
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
    return mock_submit(stream, KERNEL, &task), SUCCESS;
}

int cuStreamBeginCapture_v2(void *stream, int) { return captured = new Graph, capturing = (Stream *)stream, SUCCESS; }
int cuStreamEndCapture(void *, void **graph) { return *graph = captured, captured = 0, objects++, SUCCESS; }
int cuGraphGetNodes(void *graph, void **nodes, size_t *count) {
    Graph *of = (Graph *)graph;
    if (nodes)
        for (size_t i = 0; i < *count; i++) nodes[i] = &of->items[i];
    return *count = of->items.size(), SUCCESS;
}
int cuGraphNodeGetType(void *node, int *kind) { return *kind = ((Item *)node)->kind, SUCCESS; }
int cuGraphInstantiateWithFlags(void **ready, void *graph, unsigned long long) {
    return *ready = new Graph(*(Graph *)graph), objects++, SUCCESS;
}
int cuGraphDestroy(void *graph) { return delete (Graph *)graph, objects--, SUCCESS; }
int cuGraphExecDestroy(void *graph) { return delete (Graph *)graph, objects--, SUCCESS; }
int cuGraphUpload(void *, void *) { return SUCCESS; }
int cuGraphLaunch(void *graph, void *stream) {
    if (broken) return ILLEGAL_ADDRESS;
    graph_starts++;
    for (auto &item : ((Graph *)graph)->items) submit((Stream *)stream, item);
    return SUCCESS;
}

int cuEventCreate(void **event, unsigned) { return *event = new Event(new State), objects++, SUCCESS; }
int cuEventDestroy_v2(void *event) { return delete (Event *)event, objects--, SUCCESS; }
int cuEventRecord(void *event, void *stream) {
    // Within a capture this only orders what is captured: nobody could ask for it afterwards.
    if (captured && stream == capturing) return SUCCESS;
    return submit((Stream *)stream, Item{RECORD, 0, *(Event *)event, 0, 0}), SUCCESS;
}
int cuEventRecordWithFlags(void *event, void *stream, unsigned flags) {
    // CU_EVENT_RECORD_EXTERNAL is for captures alone.
    if (flags != (captured && stream == capturing ? 1 : 0)) return INVALID_VALUE;
    return submit((Stream *)stream, Item{RECORD, 0, *(Event *)event, 0, 0}), SUCCESS;
}
int cuEventSynchronize(void *event) {
    const Event &of = *(Event *)event;
    if (broken) return ILLEGAL_ADDRESS;
    if (of->reached >= of->recorded) return SUCCESS;
    waits++;
    return finish(of->stream, of, of->recorded);
}
int cuEventElapsedTime(float *ms, void *start, void *end) {
    const Event &first = *(Event *)start, &last = *(Event *)end;
    if (!first->recorded || !last->recorded) return INVALID_HANDLE;
    if (first->reached < first->recorded || last->reached < last->recorded) return NOT_READY;
    return *ms = (last->us - first->us) * 1e-3f, SUCCESS;
}

int cuGetErrorName(int error, const char **text) {
    *text = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : error == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR";
    return SUCCESS;
}
int cuGetErrorString(int error, const char **text) { return cuGetErrorName(error, text); }
}
