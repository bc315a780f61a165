// The arithmetic of one skip-gram pair, compiled once for each instruction set.
//
// Deliberately without an include guard: _sgns_walk.hpp includes it several times, each time
// inside a namespace of its own, with SGNS_LANES set to the floats of one register and
// the compiler told which instructions it may use. The vectors are the generic ones of
// GCC and clang, so the same lines become AVX-512, AVX2, SSE or NEON.
//
// Nothing of the standard library may be used here: an inline function of it, compiled
// in here with wide instructions, could be the copy that the linker keeps for everyone.

typedef float Vector __attribute__((vector_size(SGNS_LANES * 4), may_alias));
typedef float Eight __attribute__((vector_size(32)));
typedef int EightInts __attribute__((vector_size(32)));

static inline float sum(Vector v) {
    // Halving by shuffles keeps several sums in flight; GCC and clang unroll the loop.
    float lanes[SGNS_LANES];
    __builtin_memcpy(lanes, &v, sizeof lanes);
    for (int half = SGNS_LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    return lanes[0];
}

// 1 / (1 + exp(-x)) to about 2e-7; a NaN stays one. exp is 2^n times a polynomial of the
// fraction (minimax on [-0.5, 0.5]).
static inline Eight sigmoid(Eight x) {
    const Eight limit = Eight{} + 60.0f;
    x = x > limit ? limit : x;
    x = x < -limit ? -limit : x;
    const Eight t = x * -1.44269504f;
    // Adding 1.5 * 2^23 rounds to a whole number, which then sits in the low bits.
    const Eight shifted = t + 12582912.0f;
    const Eight f = t - (shifted - 12582912.0f);
    Eight p = f * 1.535336188e-4f + 1.339887440e-3f;
    p = p * f + 9.618437357e-3f;
    p = p * f + 5.550332471e-2f;
    p = p * f + 2.402264791e-1f;
    p = p * f + 6.931472028e-1f;
    p = p * f + 1.0f;
    const EightInts power = (EightInts)shifted << 23;
    return 1.0f / (1.0f + (Eight)((EightInts)p + power));
}

// One update: `input` is pulled towards rows[0] and pushed away from the others.
//
// All products are taken before any row moves: the exact gradient of the pair's loss at
// one point. `blocks` counts 16 floats; BLOCKS is the same number where it is known when
// compiling (then the input row and its gradient live in registers), else 0. `gradient`
// is scratch of one row. The probabilities of the right answers, sigmoid(input . row) for
// rows[0] and 1 - sigmoid(input . row) for the others, are left in `probability`.
template <int BLOCKS>
static void update(float *input, float *const *rows, int count, int blocks, float rate,
                   float *gradient, float *probability) {
    const int vectors = (BLOCKS ? BLOCKS : blocks) * (16 / SGNS_LANES);
    Vector *const in = (Vector *)input;
    Vector *const change = (Vector *)gradient;
    for (int v = 0; v < vectors; ++v) change[v] = Vector{};
    for (int base = 0; base < count; base += 8) {
        const int here = count - base < 8 ? count - base : 8;
        float product[8] = {0, 0, 0, 0, 0, 0, 0, 0};
        for (int k = 0; k < here; ++k) {
            const Vector *row = (const Vector *)rows[base + k];
            Vector total = in[0] * row[0];
            for (int v = 1; v < vectors; ++v) total += in[v] * row[v];
            product[k] = sum(total);
        }
        Eight x;
        __builtin_memcpy(&x, product, sizeof x);
        x = sigmoid(x);
        float value[8];
        __builtin_memcpy(value, &x, sizeof value);
        for (int k = 0; k < here; ++k) {
            const bool positive = base + k == 0;
            probability[base + k] = positive ? value[k] : 1.0f - value[k];
            const float step = rate * ((positive ? 1.0f : 0.0f) - value[k]);
            Vector *row = (Vector *)rows[base + k];
            for (int v = 0; v < vectors; ++v) {
                const Vector old = row[v];
                change[v] += step * old;
                row[v] = old + step * in[v];
            }
        }
    }
    for (int v = 0; v < vectors; ++v) in[v] += change[v];
}

// The probabilities of the right answers alone, small ones exact too; nothing moves.
static void look(const float *input, float *const *rows, int count, int blocks,
                 float *probability) {
    const int vectors = blocks * (16 / SGNS_LANES);
    const Vector *const in = (const Vector *)input;
    for (int k = 0; k < count; ++k) {
        const Vector *row = (const Vector *)rows[k];
        Vector total = in[0] * row[0];
        for (int v = 1; v < vectors; ++v) total += in[v] * row[v];
        probability[k] = sigmoid(Eight{} + (k == 0 ? sum(total) : -sum(total)))[0];
    }
}

static Update choose(int blocks) {
    // The widths people use: 16 to 128, 200, 256 and 300 (rounded up to 16).
    switch (blocks) {
        case 1: return update<1>;
        case 2: return update<2>;
        case 3: return update<3>;
        case 4: return update<4>;
        case 5: return update<5>;
        case 6: return update<6>;
        case 7: return update<7>;
        case 8: return update<8>;
        case 13: return update<13>;
        case 16: return update<16>;
        case 19: return update<19>;
        default: return update<0>;
    }
}
