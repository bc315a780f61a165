// Skip-gram with negative sampling over one chunk of word ids: which pairs, which
// negatives, in which order; and the choice of the instructions that do the arithmetic.
//
// Nothing here knows of Python. Ids are read once and checked; the settings and the shapes
// in a Job are the caller's to check.

#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace {

constexpr int MAX_WINDOW = 64;
constexpr int MAX_NEGATIVES = 64;
constexpr int MAX_TARGETS = MAX_NEGATIVES + 1;
constexpr std::ptrdiff_t ROW_BLOCK = 16;  // floats; rows are whole numbers of 64 bytes
constexpr std::int32_t SENTENCE_END = -1;
constexpr std::int32_t UNKNOWN = -2;  // as if it were not there
constexpr std::uint32_t ALWAYS = 0xffffffffu;
constexpr std::uint64_t LOSS_EVERY = 16;  // pairs; a power of two

using Update = void (*)(float *, float *const *, int, int, float, float *, float *);
using Look = void (*)(const float *, float *const *, int, int, float *);

}  // namespace

// Each copy of the arithmetic has a namespace and an instruction set of its own.
#if defined(__x86_64__)
#define SGNS_X86 1
#define SGNS_LANES 16
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx2,fma")
#endif
namespace avx512 {
#include "_sgns_kernel.hpp"
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef SGNS_LANES

#define SGNS_LANES 8
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
namespace avx2 {
#include "_sgns_kernel.hpp"
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef SGNS_LANES
#endif

// What every processor of the architecture has: SSE2, NEON, or plain arithmetic.
#define SGNS_LANES 4
namespace baseline {
#include "_sgns_kernel.hpp"
}
#undef SGNS_LANES

namespace {

struct Kernel {
    const char *name;
    Update (*choose)(int);
    Look look;
};

// The kernels that this processor can run, the fastest first.
std::vector<Kernel> kernels;

void find_kernels() {
#if defined(SGNS_X86)
    __builtin_cpu_init();
    const bool wide = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (wide && __builtin_cpu_supports("avx512f"))
        kernels.push_back({"avx512", avx512::choose, avx512::look});
    if (wide) kernels.push_back({"avx2", avx2::choose, avx2::look});
#endif
    kernels.push_back({"baseline", baseline::choose, baseline::look});
}

// SplitMix64 (Steele, Lea and Flood 2014).
struct Random {
    std::uint64_t state;

    std::uint64_t next() {
        std::uint64_t z = (state += 0x9e3779b97f4a7c15ull);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        return z ^ (z >> 31);
    }

    // A number below `limit`; the bias is below limit / 2^32.
    std::uint32_t below(std::uint32_t limit) {
        return static_cast<std::uint32_t>((next() >> 32) * limit >> 32);
    }
};

// One entry of an alias table (Walker 1977, Vose 1991): entry i stands for word i with
// the chance threshold / 2^32, else for `other`.
struct Alias {
    std::uint32_t threshold;
    std::uint32_t other;
};

struct Job {
    float *inputs;
    float *outputs;
    std::uint32_t vocabulary;
    std::ptrdiff_t row;  // floats
    const std::int32_t *words;
    std::ptrdiff_t length;
    const std::uint32_t *keep;
    const Alias *alias;
    int window;
    int negatives;
    float rate;
    bool learns;
};

struct Outcome {
    std::uint64_t kept = 0;
    std::uint64_t pairs = 0;
    std::uint64_t loss_pairs = 0;
    double loss = 0;
    std::ptrdiff_t bad_position = -1;
};

// A context word's row and the rows it is held against; rows[0] is the centre's.
struct Pair {
    float *input;
    int count;
    float *rows[MAX_TARGETS];
};

class Walk {
  public:
    // Allocates everything; may throw std::bad_alloc.
    Walk(const Job &job, const Kernel &kernel, std::uint64_t seed)
        : job_(job), blocks_(static_cast<int>(job.row / ROW_BLOCK)), random_{seed},
          update_(kernel.choose(blocks_)), look_(kernel.look),
          sentence_(static_cast<std::size_t>(job.length)),
          scratch_(static_cast<std::size_t>(job.row + ROW_BLOCK)) {
        const auto address = reinterpret_cast<std::uintptr_t>(scratch_.data());
        gradient_ = scratch_.data() + ((64 - address % 64) % 64) / sizeof(float);
    }

    Outcome run() noexcept {
        std::ptrdiff_t size = 0;
        for (std::ptrdiff_t i = 0; i < job_.length; ++i) {
            const std::int32_t word = job_.words[i];
            if (word == SENTENCE_END) {
                sentence(size);
                size = 0;
                continue;
            }
            if (word == UNKNOWN) continue;
            if (word < 0 || static_cast<std::uint32_t>(word) >= job_.vocabulary) {
                outcome_.bad_position = i;
                return outcome_;
            }
            const std::uint32_t keep = job_.keep[word];
            if (keep == ALWAYS || (random_.next() >> 32) < keep)
                sentence_[static_cast<std::size_t>(size++)] = word;
        }
        sentence(size);
        if (waiting_) finish(pairs_[current_]);
        return outcome_;
    }

  private:
    void sentence(std::ptrdiff_t size) {
        outcome_.kept += static_cast<std::uint64_t>(size);
        for (std::ptrdiff_t centre = 0; centre < size; ++centre) {
            // The dynamic window: 1 to `window` words, all equally likely.
            const std::ptrdiff_t reach =
                1 + random_.below(static_cast<std::uint32_t>(job_.window));
            const std::ptrdiff_t first = centre > reach ? centre - reach : 0;
            const std::ptrdiff_t last = centre + reach < size ? centre + reach : size - 1;
            for (std::ptrdiff_t context = first; context <= last; ++context)
                if (context != centre) pair(at(context), at(centre));
        }
    }

    std::int32_t at(std::ptrdiff_t position) const {
        return sentence_[static_cast<std::size_t>(position)];
    }

    // Draws a pair and asks for its rows, then does the one before, whose rows have had
    // time to arrive.
    void pair(std::int32_t context, std::int32_t centre) {
        Pair &next = pairs_[1 - current_];
        next.input = job_.inputs + context * job_.row;
        next.rows[0] = job_.outputs + centre * job_.row;
        next.count = 1;
        __builtin_prefetch(next.input, 1);
        for (int k = 0; k < job_.negatives; ++k) {
            const std::uint64_t drawn = random_.next();
            const std::uint64_t slot = (drawn >> 32) * job_.vocabulary >> 32;
            const Alias entry = job_.alias[slot];
            const std::uint64_t word =
                static_cast<std::uint32_t>(drawn) < entry.threshold ? slot : entry.other;
            // As in word2vec: a negative that is the word itself is left out.
            if (word == static_cast<std::uint64_t>(centre)) continue;
            float *row = job_.outputs + static_cast<std::ptrdiff_t>(word) * job_.row;
            for (int block = 0; block < blocks_; ++block)
                __builtin_prefetch(row + block * ROW_BLOCK, 1);
            next.rows[next.count++] = row;
        }
        if (waiting_) finish(pairs_[current_]);
        waiting_ = true;
        current_ = 1 - current_;
    }

    void finish(Pair &pair) {
        float probability[MAX_TARGETS];
        if (job_.learns)
            update_(pair.input, pair.rows, pair.count, blocks_, job_.rate, gradient_, probability);
        else
            look_(pair.input, pair.rows, pair.count, blocks_, probability);
        if (!job_.learns || outcome_.pairs % LOSS_EVERY == 0) {
            // In steps, because a product of many probabilities has no room in a double.
            // A NaN must get through: it is what the caller looks for.
            double product = probability[0];
            for (int k = 1; k < pair.count; ++k) {
                product *= probability[k];
                if (k % 8 == 0) {
                    outcome_.loss -= std::log(product < 1e-300 ? 1e-300 : product);
                    product = 1;
                }
            }
            outcome_.loss -= std::log(product < 1e-300 ? 1e-300 : product);
            ++outcome_.loss_pairs;
        }
        ++outcome_.pairs;
    }

    const Job &job_;
    const int blocks_;
    Random random_;
    const Update update_;
    const Look look_;
    std::vector<std::int32_t> sentence_;
    std::vector<float> scratch_;
    float *gradient_;
    Pair pairs_[2];
    int current_ = 0;
    bool waiting_ = false;
    Outcome outcome_;
};

}  // namespace
