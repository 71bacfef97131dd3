// Stands for src/device/cuda/kernels/machine.cuh on a CPU, so that a test can run the same kernels there: blocks one after the
// other, threads as fibres that wait for each other where the GPU's do.
//
// What must fail does: an address outside a buffer or outside shared memory hits a page that nobody may touch, shared memory is
// filled with no-numbers before each block, lanes of a warp that do not meet at the same instruction are reported, and so are
// arguments of another number or type. The order of threads and blocks can be reversed: where results differ, there is a race.

#include <csetjmp>
#include <csignal>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <type_traits>
#include <ucontext.h>
#include <unistd.h>
#include <utility>

#define __device__
#define __global__
#define __forceinline__ inline
#define __align__(bytes) alignas(bytes)
#define SHARED_MEMORY unsigned char *shared_memory = machine::shared
#define BLOCK_OF(threads)

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned char u8;

struct bf16 {
    unsigned short bits;
};

struct Index {
    unsigned x, y, z;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

namespace machine {

const int MOST_THREADS = 1024, LANES = 32;
const size_t STACK = 256 << 10;

enum State { READY, IN_WARP, IN_BLOCK, DONE };

struct Fibre {
    ucontext_t start;
    jmp_buf at;
    bool started;
    State state;
    void *stack;
    // What it waits for, and how often it has met its warp.
    int kind, meetings;
};

// What lanes show each other when they meet.
struct Shown {
    float number;
    const bf16 *row;
    u32 a[4], b[2];
};

static Fibre fibres[MOST_THREADS];
static Shown shown[2][MOST_THREADS];
static Fibre *current;
static jmp_buf scheduler;
static sigjmp_buf stopped;
static char *message;
static size_t room;
static unsigned char *shared;
static void (*run)(const struct Argument *);
static const struct Argument *arguments;

[[noreturn]] inline void stop(const char *what) {
    snprintf(message, room, "%s (block %u, %u, %u, thread %u)", what, blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x);
    siglongjmp(stopped, 1);
}

inline void on_fault(int, siginfo_t *info, void *) {
    char text[128];
    snprintf(text, sizeof text, "an address that is in no buffer, or written and only to be read: %p", info->si_addr);
    stop(text);
}

inline void wait_as(State state) {
    Fibre *self = current;
    self->state = state;
    if (!_setjmp(self->at)) _longjmp(scheduler, 1);
}

inline void body() {
    for (;;) {
        run(arguments);
        wait_as(DONE);
    }
}

inline void resume(Fibre *fibre) {
    current = fibre;
    threadIdx.x = (unsigned)(fibre - fibres);
    if (_setjmp(scheduler)) return;
    if (fibre->started) _longjmp(fibre->at, 1);
    fibre->started = true;
    setcontext(&fibre->start);
}

// Waits until all lanes of the warp are here, each with what it shows, and gives what they show.
inline const Shown *meet(int kind, const Shown &own) {
    Fibre *self = current;
    const int index = (int)(self - fibres);
    Shown *all = shown[self->meetings++ % 2];
    all[index] = own;
    self->kind = kind;
    wait_as(IN_WARP);
    return all + index / LANES * LANES;
}

inline void prepare(unsigned threads) {
    for (unsigned i = 0; i < threads; i++) {
        Fibre &fibre = fibres[i];
        if (!fibre.stack) fibre.stack = mmap(0, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        getcontext(&fibre.start);
        fibre.start.uc_stack.ss_sp = fibre.stack;
        fibre.start.uc_stack.ss_size = STACK;
        fibre.start.uc_link = 0;
        makecontext(&fibre.start, body, 0);
        fibre.started = false;
    }
}

// Runs a warp until all of its lanes are done or wait for the block.
inline void run_warp(unsigned warp, bool reversed) {
    for (;;) {
        for (int i = 0; i < LANES; i++) {
            Fibre &fibre = fibres[warp * LANES + (reversed ? LANES - 1 - i : i)];
            if (fibre.state == READY) resume(&fibre);
        }
        int meeting = 0;
        const Fibre &first = fibres[warp * LANES];
        for (int i = 0; i < LANES; i++) meeting += fibres[warp * LANES + i].state == IN_WARP;
        if (meeting == 0) return;
        threadIdx.x = warp * LANES;
        if (meeting < LANES) stop("some lanes of a warp are at an instruction of the whole warp, others are not");
        for (int i = 0; i < LANES; i++) {
            Fibre &fibre = fibres[warp * LANES + i];
            if (fibre.kind != first.kind) stop("lanes of a warp are at different instructions of the whole warp");
            fibre.state = READY;
        }
    }
}

inline void run_block(unsigned threads, bool reversed) {
    const unsigned warps = threads / LANES;
    for (unsigned i = 0; i < threads; i++) {
        fibres[i].state = READY;
        fibres[i].meetings = 0;
    }
    for (;;) {
        for (unsigned i = 0; i < warps; i++) run_warp(reversed ? warps - 1 - i : i, reversed);
        unsigned waiting = 0, done = 0;
        for (unsigned i = 0; i < threads; i++) {
            waiting += fibres[i].state == IN_BLOCK;
            done += fibres[i].state == DONE;
        }
        if (done == threads) return;
        if (waiting != threads) stop("some threads wait for the block and others have ended");
        for (unsigned i = 0; i < threads; i++) fibres[i].state = READY;
    }
}

enum Kind { POINTER = 0, INT = 1, FLOAT = 2 };
enum ElementKind { NOTHING = 0, OF_FLOAT = 1, OF_BF16 = 2, OF_INT = 3, OF_U8 = 4 };

struct Argument {
    int kind, element;
    union {
        void *pointer;
        int integer;
        float number;
    };
};

template <typename T> struct Taken;
template <> struct Taken<int> {
    static bool fits(const Argument &a) { return a.kind == INT; }
    static Argument at(const void *place) {
        Argument a = {INT, NOTHING, {}};
        memcpy(&a.integer, place, sizeof a.integer);
        return a;
    }
    static int of(const Argument &a) { return a.integer; }
};
template <> struct Taken<float> {
    static bool fits(const Argument &a) { return a.kind == FLOAT; }
    static Argument at(const void *place) {
        Argument a = {FLOAT, NOTHING, {}};
        memcpy(&a.number, place, sizeof a.number);
        return a;
    }
    static float of(const Argument &a) { return a.number; }
};
template <typename T> struct Taken<T *> {
    typedef std::remove_const_t<T> Element;
    static const int ELEMENT = std::is_same_v<Element, float>  ? OF_FLOAT
                               : std::is_same_v<Element, bf16> ? OF_BF16
                               : std::is_same_v<Element, int>  ? OF_INT
                                                               : OF_U8;
    static bool fits(const Argument &a) { return a.kind == POINTER && (a.element == NOTHING || a.element == ELEMENT); }
    static T *of(const Argument &a) { return (T *)a.pointer; }
    static Argument at(const void *place) {
        Argument a = {POINTER, ELEMENT, {}};
        memcpy(&a.pointer, place, sizeof a.pointer);
        return a;
    }
};

template <auto KERNEL> struct Entry;
template <typename... A, void (*KERNEL)(A...)> struct Entry<KERNEL> {
    template <size_t... I> static void call(const Argument *a, std::index_sequence<I...>) { KERNEL(Taken<A>::of(a[I])...); }
    template <size_t... I> static bool fit(const Argument *a, std::index_sequence<I...>) {
        return (Taken<A>::fits(a[I]) && ...);
    }
    // Arguments as a driver is given them: where each lies.
    template <size_t... I> static void take(void **given, Argument *to, std::index_sequence<I...>) {
        ((to[I] = Taken<A>::at(given[I])), ...);
    }
    static unsigned take(void **given, Argument *to) {
        take(given, to, std::index_sequence_for<A...>{});
        return sizeof...(A);
    }
    static void run(const Argument *a) { call(a, std::index_sequence_for<A...>{}); }
    static bool fits(const Argument *a, unsigned count) {
        return count == sizeof...(A) && fit(a, std::index_sequence_for<A...>{});
    }
};

struct Known {
    const char *name;
    void (*run)(const Argument *);
    bool (*fits)(const Argument *, unsigned);
    unsigned (*take)(void **, Argument *);
};

inline int start(const Known *known, unsigned count, const char *name, const unsigned *grid, unsigned threads,
                 unsigned shared_bytes, const Argument *given, unsigned given_count, int reversed, char *text, size_t size) {
    message = text;
    room = size;
    const Known *found = 0;
    for (unsigned i = 0; i < count; i++)
        if (!strcmp(known[i].name, name)) found = &known[i];
    if (!found) return snprintf(text, size, "there is no such kernel"), 1;
    if (!found->fits(given, given_count)) return snprintf(text, size, "the arguments are not those that it takes"), 1;
    if (threads == 0 || threads % LANES || threads > (unsigned)MOST_THREADS)
        return snprintf(text, size, "%u threads are not whole warps", threads), 1;

    const size_t page = sysconf(_SC_PAGESIZE), pages = (shared_bytes + page - 1) / page * page;
    unsigned char *memory =
        (unsigned char *)mmap(0, pages + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(memory + pages, page, PROT_NONE);
    shared = memory + pages - (shared_bytes + 15) / 16 * 16;
    run = found->run;
    arguments = given;

    static unsigned char fault_stack[64 << 10];
    stack_t own = {}, before;
    own.ss_sp = fault_stack;
    own.ss_size = sizeof fault_stack;
    sigaltstack(&own, &before);
    struct sigaction action = {}, old, old_bus;
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &old);
    sigaction(SIGBUS, &action, &old_bus);
    int failed = 0;
    if (sigsetjmp(stopped, 1)) {
        failed = 1;
    } else {
        gridDim = {grid[0], grid[1], grid[2]};
        blockDim = {threads, 1, 1};
        prepare(threads);
        const u64 blocks = (u64)grid[0] * grid[1] * grid[2];
        for (u64 i = 0; i < blocks; i++) {
            const u64 block = reversed ? blocks - 1 - i : i;
            blockIdx = {(unsigned)(block % grid[0]), (unsigned)(block / grid[0] % grid[1]),
                        (unsigned)(block / grid[0] / grid[1])};
            memset(shared, 0xff, shared_bytes);
            run_block(threads, reversed);
        }
    }
    sigaction(SIGSEGV, &old, 0);
    sigaction(SIGBUS, &old_bus, 0);
    sigaltstack(&before, 0);
    munmap(memory, pages + page);
    return failed;
}

} // namespace machine

inline void __syncthreads() { machine::wait_as(machine::IN_BLOCK); }

inline float as_f32(u32 bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

inline bf16 round_bf16(float x) {
    u32 bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return {(unsigned short)(bits >> 16 | 0x40)};
    return {(unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline u32 pack_bf16(float first, float second) { return round_bf16(first).bits | (u32)round_bf16(second).bits << 16; }

inline float lane_xor(float x, int bits) {
    const unsigned lane = threadIdx.x % 32;
    machine::Shown own = {};
    own.number = x;
    return machine::meet(1, own)[lane ^ bits].number;
}

inline void sync_warp() { machine::meet(5, {}); }

inline void matrices(u32 (&out)[4], const bf16 *row, int kind, bool transposed) {
    const unsigned lane = threadIdx.x % 32;
    if ((uintptr_t)row % 16) machine::stop("a row of a matrix is not at a multiple of 16 bytes");
    machine::Shown own = {};
    own.row = row;
    const machine::Shown *all = machine::meet(kind, own);
    for (int matrix = 0; matrix < 4; matrix++) {
        u32 both = 0;
        for (unsigned i = 0; i < 2; i++) {
            const unsigned a = lane / 4, b = lane % 4 * 2 + i;
            const u32 bits = transposed ? all[8 * matrix + b].row[a].bits : all[8 * matrix + a].row[b].bits;
            both |= bits << 16 * i;
        }
        out[matrix] = both;
    }
}

inline void load_matrices(u32 (&out)[4], const bf16 *row) { matrices(out, row, 2, false); }
inline void load_matrices_transposed(u32 (&out)[4], const bf16 *row) { matrices(out, row, 3, true); }

// By the layout of fragments in the PTX manual, mma.m16n8k16: a lane is group lane / 4 and place lane % 4; register i of a has rows
// group + 8 (i % 2), columns 2 place + 8 (i / 2) and the next; register i of b has rows 2 place + 8 i and the next, column group; sum i
// has row group + 8 (i / 2), column 2 place + i % 2.
inline void multiply_add(float (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    const unsigned lane = threadIdx.x % 32;
    machine::Shown own = {};
    memcpy(own.a, a, sizeof a);
    own.b[0] = b0;
    own.b[1] = b1;
    const machine::Shown *all = machine::meet(4, own);
    const auto half = [](u32 word, int which) { return as_f32((word >> 16 * which & 0xffff) << 16); };
    for (int i = 0; i < 4; i++) {
        const int row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
        for (int k = 0; k < 16; k++) {
            const int place = k % 8 / 2, upper = k / 8;
            const u32 left = all[row % 8 * 4 + place].a[row / 8 + 2 * upper], right = all[column * 4 + place].b[upper];
            sums[i] += half(left, k % 2) * half(right, k % 2);
        }
    }
}
