// Skip-gram with negative sampling (Mikolov et al. 2013, "Distributed Representations of
// Words and Phrases and their Compositionality"), as a CPython extension: arguments are
// taken apart and checked here; the work is in _sgns_walk.hpp and _sgns_kernel.hpp.
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

#include "_sgns_walk.hpp"

namespace {

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
