// Skip-gram with negative sampling (Mikolov et al. 2013, "Distributed Representations of
// Words and Phrases and their Compositionality"), the inner loop: a CPython extension.
//
// One call works through one chunk of word ids without the interpreter lock, so that
// several Python threads train one pair of matrices at the same time (Hogwild, Niu et
// al. 2011): their reads and writes of single floats may mix, which the method tolerates.
// With one thread the result is a function of the inputs and the seed alone.
//
// What it refuses, before or while it computes: buffers that are not contiguous, of
// another type or shape, or not aligned; ids outside the vocabulary (each id is read
// once, checked, and only the checked copy is used); settings outside their limits.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

namespace {

constexpr int MAX_WINDOW = 64;
constexpr int MAX_NEGATIVES = 64;
constexpr int MAX_TARGETS = MAX_NEGATIVES + 1;
constexpr Py_ssize_t ROW_BLOCK = 16;  // floats; rows are whole numbers of 64 bytes
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
    Py_ssize_t row;  // floats
    const std::int32_t *words;
    Py_ssize_t length;
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
    Py_ssize_t bad_position = -1;
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
        Py_ssize_t size = 0;
        for (Py_ssize_t i = 0; i < job_.length; ++i) {
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
    void sentence(Py_ssize_t size) {
        outcome_.kept += static_cast<std::uint64_t>(size);
        for (Py_ssize_t centre = 0; centre < size; ++centre) {
            // The dynamic window: 1 to `window` words, all equally likely.
            const Py_ssize_t reach =
                1 + random_.below(static_cast<std::uint32_t>(job_.window));
            const Py_ssize_t first = centre > reach ? centre - reach : 0;
            const Py_ssize_t last = centre + reach < size ? centre + reach : size - 1;
            for (Py_ssize_t context = first; context <= last; ++context)
                if (context != centre) pair(at(context), at(centre));
        }
    }

    std::int32_t at(Py_ssize_t position) const {
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
            float *row = job_.outputs + static_cast<Py_ssize_t>(word) * job_.row;
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

// A buffer that was checked for what is in it and is given back at the end.
class Buffer {
  public:
    Buffer() = default;
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;
    ~Buffer() {
        if (held_) PyBuffer_Release(&view_);
    }

    // `kind` is the struct format's letter; `columns` 0 means one dimension, negative any
    // number of columns. Sets a Python error and returns false if something else came.
    bool take(PyObject *object, const char *name, char kind, Py_ssize_t columns, bool writable) {
        const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
        if (PyObject_GetBuffer(object, &view_, flags) != 0) return false;
        held_ = true;
        const char *format = view_.format ? view_.format : "B";
        if (*format == '<' || *format == '=' || *format == '@') ++format;
        if (format[0] != kind || format[1] != 0 || view_.itemsize != 4) {
            PyErr_Format(PyExc_TypeError, "%s must hold 4-byte numbers of the format '%c', not '%s'",
                         name, kind, view_.format ? view_.format : "B");
            return false;
        }
        const int dimensions = columns == 0 ? 1 : 2;
        if (view_.ndim != dimensions || (columns > 0 && view_.shape[1] != columns)) {
            PyErr_Format(PyExc_ValueError, "%s has another shape than the %d dimensions expected",
                         name, dimensions);
            return false;
        }
        return true;
    }

    template <class T> T *data() const { return static_cast<T *>(view_.buf); }
    std::size_t bytes() const { return static_cast<std::size_t>(view_.len); }
    Py_ssize_t rows() const { return view_.shape[0]; }
    Py_ssize_t columns() const { return view_.shape[1]; }

  private:
    Py_buffer view_;
    bool held_ = false;
};

const Kernel *find_kernel(const char *name) {
    if (!*name) return &kernels.front();
    for (const Kernel &kernel : kernels)
        if (std::strcmp(kernel.name, name) == 0) return &kernel;
    PyErr_Format(PyExc_ValueError, "this processor has no kernel '%s'", name);
    return nullptr;
}

bool overlap(const Buffer &one, const Buffer &other) {
    const auto begin = reinterpret_cast<std::uintptr_t>(one.data<float>());
    const auto start = reinterpret_cast<std::uintptr_t>(other.data<float>());
    return begin < start + other.bytes() && start < begin + one.bytes();
}

bool check(const Buffer &inputs, const Buffer &outputs, const Buffer &keep, const Buffer &alias,
           int window, int negatives, float rate) {
    const Py_ssize_t vocabulary = inputs.rows();
    const char *problem = nullptr;
    if (vocabulary < 1 || vocabulary > INT32_MAX)
        problem = "the matrices must have 1 to 2^31 - 1 rows";
    else if (outputs.rows() != vocabulary || outputs.columns() != inputs.columns())
        problem = "inputs and outputs must have the same shape";
    else if (keep.rows() != vocabulary || alias.rows() != vocabulary)
        problem = "keep and alias must have a row for each word";
    else if (inputs.columns() < ROW_BLOCK || inputs.columns() % ROW_BLOCK ||
             inputs.columns() > 65536)
        problem = "rows must be 16 to 65,536 floats long, a multiple of 16";
    else if (reinterpret_cast<std::uintptr_t>(inputs.data<float>()) % 64 ||
             reinterpret_cast<std::uintptr_t>(outputs.data<float>()) % 64)
        problem = "the matrices must be aligned to 64 bytes";
    else if (overlap(inputs, outputs))
        problem = "inputs and outputs must be two matrices";
    else if (window < 1 || window > MAX_WINDOW)
        problem = "window must be 1 to 64";
    else if (negatives < 1 || negatives > MAX_NEGATIVES)
        problem = "negatives must be 1 to 64";
    else if (!std::isfinite(rate) || rate < 0)
        problem = "rate must be a finite number of at least 0";
    if (!problem) {
        const Alias *entries = alias.data<Alias>();
        for (Py_ssize_t i = 0; i < vocabulary; ++i)
            if (entries[i].other >= static_cast<std::uint64_t>(vocabulary)) {
                problem = "alias names a word outside the vocabulary";
                break;
            }
    }
    if (problem) PyErr_SetString(PyExc_ValueError, problem);
    return problem == nullptr;
}

// The common part of train and measure: takes the arguments apart, checks them, and works
// without the interpreter lock.
PyObject *work(PyObject *arguments, PyObject *named, bool learns) {
    static const char *train_names[] = {"inputs",    "outputs", "words", "keep",   "alias", "window",
                                        "negatives", "seed",    "rate",  "kernel", nullptr};
    static const char *measure_names[] = {"inputs", "outputs",   "words", "keep",   "alias",
                                          "window", "negatives", "seed",  "kernel", nullptr};
    PyObject *inputs_object, *outputs_object, *words_object, *keep_object, *alias_object;
    int window, negatives;
    unsigned long long seed;
    float rate = 0;
    const char *kernel_name = "";
    const bool parsed =
        learns ? PyArg_ParseTupleAndKeywords(
                     arguments, named, "OOOOOiiKf|s:train", const_cast<char **>(train_names),
                     &inputs_object, &outputs_object, &words_object, &keep_object, &alias_object,
                     &window, &negatives, &seed, &rate, &kernel_name)
               : PyArg_ParseTupleAndKeywords(
                     arguments, named, "OOOOOiiK|s:measure", const_cast<char **>(measure_names),
                     &inputs_object, &outputs_object, &words_object, &keep_object, &alias_object,
                     &window, &negatives, &seed, &kernel_name);
    if (!parsed) return nullptr;

    Buffer inputs, outputs, words, keep, alias;
    if (!inputs.take(inputs_object, "inputs", 'f', -1, learns) ||
        !outputs.take(outputs_object, "outputs", 'f', -1, learns) ||
        !words.take(words_object, "words", 'i', 0, false) ||
        !keep.take(keep_object, "keep", 'I', 0, false) ||
        !alias.take(alias_object, "alias", 'I', 2, false) ||
        !check(inputs, outputs, keep, alias, window, negatives, rate))
        return nullptr;
    const Kernel *kernel = find_kernel(kernel_name);
    if (!kernel) return nullptr;

    const Job job{inputs.data<float>(),
                  outputs.data<float>(),
                  static_cast<std::uint32_t>(inputs.rows()),
                  inputs.columns(),
                  words.data<std::int32_t>(),
                  words.rows(),
                  keep.data<std::uint32_t>(),
                  alias.data<Alias>(),
                  window,
                  negatives,
                  rate,
                  learns};
    Outcome outcome;
    try {
        Walk walk(job, *kernel, seed);
        Py_BEGIN_ALLOW_THREADS
        outcome = walk.run();
        Py_END_ALLOW_THREADS
    } catch (const std::bad_alloc &) {
        return PyErr_NoMemory();
    }
    if (outcome.bad_position >= 0)
        return PyErr_Format(PyExc_IndexError,
                            "the word at position %zd has an id outside the vocabulary",
                            outcome.bad_position);
    return Py_BuildValue("(KKdK)", static_cast<unsigned long long>(outcome.kept),
                         static_cast<unsigned long long>(outcome.pairs), outcome.loss,
                         static_cast<unsigned long long>(outcome.loss_pairs));
}

PyObject *train(PyObject *, PyObject *arguments, PyObject *named) {
    return work(arguments, named, true);
}

PyObject *measure(PyObject *, PyObject *arguments, PyObject *named) {
    return work(arguments, named, false);
}

PyObject *list_kernels(PyObject *, PyObject *) {
    PyObject *names = PyTuple_New(static_cast<Py_ssize_t>(kernels.size()));
    if (!names) return nullptr;
    for (std::size_t i = 0; i < kernels.size(); ++i) {
        PyObject *name = PyUnicode_FromString(kernels[i].name);
        if (!name) {
            Py_DECREF(names);
            return nullptr;
        }
        PyTuple_SET_ITEM(names, static_cast<Py_ssize_t>(i), name);
    }
    return names;
}

PyMethodDef methods[] = {
    {"train", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(train)),
     METH_VARARGS | METH_KEYWORDS, "Train on one chunk of words; see _sgns.pyi."},
    {"measure", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(measure)),
     METH_VARARGS | METH_KEYWORDS, "Compute the loss on one chunk of words; see _sgns.pyi."},
    {"kernels", list_kernels, METH_NOARGS, "The kernels of this processor, the fastest first."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef module_definition = {PyModuleDef_HEAD_INIT,
                                 "_sgns",
                                 "Skip-gram with negative sampling: the inner loop.",
                                 -1,
                                 methods,
                                 nullptr,
                                 nullptr,
                                 nullptr,
                                 nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__sgns() {
    if (kernels.empty()) find_kernels();
    return PyModule_Create(&module_definition);
}
