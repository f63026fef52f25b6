// The fused recurrences on a CPU: what eager.py computes, with the work between two matrix products
// done in one pass over rows that are still in the cache, and with trials divided among threads.
//
// All sequences are time-major, (T, B, ...), but for those whose strides are given. Gates are
// stacked in the order z (update), r (reset), n (candidate). Matrix products are our own on processors
// with AVX2 or AVX-512; elsewhere those of the BLAS library that PyTorch uses, whose functions are
// handed over at the start.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif

typedef int64_t Index;

// ---------------------------------------------------------------- matrix products

typedef void (*Sgemm)(const char*, const char*, const int*, const int*, const int*, const float*,
                      const float*, const int*, const float*, const int*, const float*, float*,
                      const int*);
typedef void (*Dgemm)(const char*, const char*, const int*, const int*, const int*, const double*,
                      const double*, const int*, const double*, const int*, const double*, double*,
                      const int*);
typedef int (*SetThreads)(int);

static Sgemm sgemm = nullptr;
static Dgemm dgemm = nullptr;
static SetThreads set_threads = nullptr;  // of the BLAS library, for the calling thread; may lack

static void blas(const char* ta, const char* tb, const int* m, const int* n, const int* k,
                 const float* alpha, const float* a, const int* lda, const float* b, const int* ldb,
                 const float* beta, float* c, const int* ldc) {
  sgemm(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
static void blas(const char* ta, const char* tb, const int* m, const int* n, const int* k,
                 const double* alpha, const double* a, const int* lda, const double* b,
                 const int* ldb, const double* beta, double* c, const int* ldc) {
  dgemm(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

// Memory that begins where a line of the cache does. The rounding of a matrix product may depend on
// that, and a run that is resumed shall round as it did.
template <class T>
struct Aligned {
  typedef T value_type;
  Aligned() = default;
  template <class U>
  Aligned(const Aligned<U>&) {}
  T* allocate(size_t n) {
    return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(64)));
  }
  void deallocate(T* p, size_t) { ::operator delete(p, std::align_val_t(64)); }
  template <class U>
  bool operator==(const Aligned<U>&) const {
    return true;
  }
  template <class U>
  bool operator!=(const Aligned<U>&) const {
    return false;
  }
};

template <class T>
using Array = std::vector<T, Aligned<T>>;

// Vectors of one register, and how many rows by how many vectors of a product are held in registers.
#if defined(__AVX512F__)
static const int BYTES = 64, TILE_ROWS = 8, TILE_VECTORS = 3;
#elif defined(__AVX2__) && defined(__FMA__)
static const int BYTES = 32, TILE_ROWS = 4, TILE_VECTORS = 3;
#else
static const int BYTES = 16, TILE_ROWS = 0, TILE_VECTORS = 0;
#endif
// Whether products are our own, which on small matrices are faster than a library that has to
// rearrange its arguments in every call, and which round each row alike wherever it stands.
static const bool OWN = TILE_ROWS > 0;

template <class T>
struct Vector {
  typedef T type __attribute__((vector_size(BYTES)));
  static const Index size = BYTES / sizeof(T);
};

template <class V, class T>
static inline V load(const T* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

// C (M, n) = A (M, k) B (k, N vectors), added to C if `add`; A is stored as (k, M) if `transposed`.
// Only n columns of C are there.
template <class T, int M, int N, bool transposed>
static inline void tile(Index n, Index k, const T* a, Index lda, const T* b, Index ldb, bool add,
                        T* c, Index ldc) {
  typedef typename Vector<T>::type V;
  const Index size = Vector<T>::size;
  const bool cut = n < N * size;
  T edge[M * N * Vector<T>::size];
  T* to = c;
  Index ld = ldc;
  if (cut) {
    to = edge;
    ld = N * size;
    for (int i = 0; i < M && add; i++) std::memcpy(edge + i * ld, c + i * ldc, size_t(n) * sizeof(T));
  }
  V sum[M][N];
#pragma GCC unroll 8
  for (int i = 0; i < M; i++)
#pragma GCC unroll 8
    for (int j = 0; j < N; j++) sum[i][j] = add ? load<V>(to + i * ld + j * size) : V{};
  for (Index p = 0; p < k; p++) {
    V row[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; j++) row[j] = load<V>(b + p * ldb + j * size);
#pragma GCC unroll 8
    for (int i = 0; i < M; i++) {
      const T x = transposed ? a[p * lda + i] : a[i * lda + p];
#pragma GCC unroll 8
      for (int j = 0; j < N; j++) sum[i][j] += x * row[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; i++)
#pragma GCC unroll 8
    for (int j = 0; j < N; j++) __builtin_memcpy(to + i * ld + j * size, &sum[i][j], sizeof(V));
  for (int i = 0; i < M && cut; i++)
    std::memcpy(c + i * ldc, edge + i * ld, size_t(n) * sizeof(T));
}

// The same for m rows, M at a time and the rest fewer at a time.
template <class T, int M, int N, bool transposed>
static inline void tiles(Index m, Index n, Index k, const T* a, Index lda, const T* b, Index ldb,
                         bool add, T* c, Index ldc) {
  Index i = 0;
  for (; i + M <= m; i += M)
    tile<T, M, N, transposed>(n, k, a + i * (transposed ? 1 : lda), lda, b, ldb, add, c + i * ldc,
                              ldc);
  if constexpr (M > 1)
    if (i < m)
      tiles<T, M / 2, N, transposed>(m - i, n, k, a + i * (transposed ? 1 : lda), lda, b, ldb, add,
                                     c + i * ldc, ldc);
}

template <class T, bool transposed>
static void tiles_of(Index vectors, Index m, Index n, Index k, const T* a, Index lda, const T* b,
                     Index ldb, bool add, T* c, Index ldc) {
  const int M = OWN ? TILE_ROWS : 1;
  switch (vectors) {
    case 1: return tiles<T, M, 1, transposed>(m, n, k, a, lda, b, ldb, add, c, ldc);
    case 2: return tiles<T, M, 2, transposed>(m, n, k, a, lda, b, ldb, add, c, ldc);
    default: return tiles<T, M, 3, transposed>(m, n, k, a, lda, b, ldb, add, c, ldc);
  }
}

// How many of the vectors that are left to take into a tile: 4 are 2 and 2, not 3 and 1.
static Index tile_width(Index left) {
  return left == TILE_VECTORS + 1 ? TILE_VECTORS - 1 : std::min<Index>(left, TILE_VECTORS);
}

template <class T>
static void library_product(bool transposed, Index m, Index n, Index k, const T* a, Index lda,
                            const T* b, Index ldb, bool add, T* c, Index ldc) {
  // The library stores by columns, so that it sees the transpose of everything.
  const int im = int(m), in = int(n), ik = int(k);
  const int ia = int(std::max<Index>(lda, 1)), ib = int(ldb), ic = int(ldc);
  const T one = 1, beta = add ? 1 : 0;
  blas("N", transposed ? "T" : "N", &in, &im, &ik, &one, b, &ib, a, &ia, &beta, c, &ic);
}

// A matrix (k, n) that others are multiplied by, arranged for that.
template <class T>
class Factor {
 public:
  Factor() = default;
  // From rows of length `ld`; from its transpose (n, k) if `transposed`.
  Factor(Index k, Index n, const T* from, Index ld, bool transposed) : k_(k), n_(n) {
    const auto at = [&](Index p, Index j) { return from[transposed ? j * ld + p : p * ld + j]; };
    if (!OWN) {
      values_.resize(size_t(k * n));
      for (Index p = 0; p < k; p++)
        for (Index j = 0; j < n; j++) values_[size_t(p * n + j)] = at(p, j);
      return;
    }
    const Index size = Vector<T>::size;
    Index first = 0;
    for (Index left = (n + size - 1) / size, taken; left > 0; left -= taken) {
      taken = tile_width(left);
      Panel panel{first, taken, std::min(n, taken * size), values_.size()};
      // The last one ends with the matrix. Where it overlaps the one before, it holds zeros.
      if (first + taken * size > n) panel.first = n - panel.columns;
      values_.resize(panel.offset + size_t(k * taken * size), T(0));
      for (Index p = 0; p < k; p++)
        for (Index j = first; j < std::min(n, first + taken * size); j++)
          values_[panel.offset + size_t(p * taken * size + j - panel.first)] = at(p, j);
      panels_.push_back(panel);
      first += taken * size;
    }
    // So the last is written first, and its zeros are overwritten.
    std::reverse(panels_.begin(), panels_.end());
  }

  // C (rows, n) = A (rows, k) times this matrix, added to C if `add`.
  void multiply(Index rows, const T* a, Index lda, bool add, T* c, Index ldc) const {
    if (rows == 0 || n_ == 0) return;
    if (k_ == 0) {
      for (Index i = 0; i < rows && !add; i++) std::fill(c + i * ldc, c + i * ldc + n_, T(0));
      return;
    }
    if (!OWN) return library_product(false, rows, n_, k_, a, lda, values_.data(), n_, add, c, ldc);
    for (const Panel& panel : panels_)
      tiles_of<T, false>(panel.vectors, rows, panel.columns, k_, a, lda,
                         values_.data() + panel.offset, panel.vectors * Vector<T>::size, add,
                         c + panel.first, ldc);
  }

 private:
  struct Panel {
    Index first, vectors, columns;
    size_t offset;
  };
  Index k_ = 0, n_ = 0;
  std::vector<Panel> panels_;
  Array<T> values_;
};

// C (m, n) += the transpose of A (rows, m), times B (rows, n). A vector beyond B must be readable.
template <class T>
static void add_outer(Index m, Index n, Index rows, const T* a, Index lda, const T* b, Index ldb,
                      T* c, Index ldc) {
  if (m == 0 || n == 0 || rows == 0) return;
  if (!OWN) return library_product(true, m, n, rows, a, lda, b, ldb, true, c, ldc);
  const Index size = Vector<T>::size;
  for (Index j = 0, taken; j < n; j += taken * size) {
    taken = tile_width((n - j + size - 1) / size);
    tiles_of<T, true>(taken, m, std::min(n - j, taken * size), rows, a, lda, b + j, ldb, true, c + j,
                      ldc);
  }
}

// To rows of `pad` columns or multiples.
template <class T>
static Array<T> transpose(const T* matrix, Index rows, Index columns, Index ld, Index pad = 1) {
  const Index out_ld = (rows + pad - 1) / pad * pad;
  Array<T> out(size_t(columns * out_ld), T(0));
  for (Index i = 0; i < rows; i++)
    for (Index j = 0; j < columns; j++) out[size_t(j * out_ld + i)] = matrix[i * ld + j];
  return out;
}

// ---------------------------------------------------------------- nonlinearities

// exp(r) - 1 for |r| <= ln(2) / 2: its series up to r^7, whose error is below 1e-8 relative.
static inline float small_expm1(float r) {
  float p = 1.f / 5040;
  p = p * r + 1.f / 720;
  p = p * r + 1.f / 120;
  p = p * r + 1.f / 24;
  p = p * r + 1.f / 6;
  p = p * r + 0.5f;
  return p * r * r + r;
}

// x = k ln(2) + r. Returns r and 2^k, for |x| < 87; ln(2) is taken in two parts so that k ln(2) is
// subtracted without error (Cody & Waite 1980).
static inline float reduce(float x, float& power) {
  const float k = __builtin_rintf(x * 1.44269504f);
  float r = x - k * 0.693359375f;
  r = r + k * 2.12194440e-4f;
  const int32_t bits = (int32_t(k) + 127) << 23;
  __builtin_memcpy(&power, &bits, sizeof bits);
  return r;
}

// For x <= 88.
static inline float bounded_exponential(float x) {
  float power;
  const float r = reduce(x < -87.f ? -87.f : x, power);
  return power * small_expm1(r) + power;
}
static inline float exponential(float x) {
  return x > 88.f ? HUGE_VALF : bounded_exponential(x);
}
static inline double exponential(double x) { return std::exp(x); }

// 1 / x for 1 <= x < 2^126: a first guess from its exponent, and Newton's method, whose error of 0.12 is
// squared three times. A division takes several times longer.
static inline float reciprocal(float x) {
  int32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  bits = 0x7ef311c7 - bits;
  float y;
  __builtin_memcpy(&y, &bits, sizeof y);
  y += y * (1.f - x * y);
  y += y * (1.f - x * y);
  y += y * (1.f - x * y);
  return y;
}

static inline float sigmoid(float x) {
  return reciprocal(1.f + bounded_exponential(x < -60.f ? 60.f : -x));  // at -60 it is 1e-26
}
static inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// tanh |x| = e / (e + 2), where e = exp(2 |x|) - 1 is exact also for small x.
static inline float hyperbolic(float x) {
  float y = 2 * __builtin_fabsf(x);
  y = y > 20.f ? 20.f : y;
  float power;
  const float r = reduce(y, power);
  const float e = power * small_expm1(r) + (power - 1);
  return __builtin_copysignf(e * reciprocal(e + 2), x);
}
static inline double hyperbolic(double x) { return std::tanh(x); }

// ---------------------------------------------------------------- rows with many zeros

// out = sum of value[i] * matrix[index[i]], for N vectors of a row.
template <int N, class T>
static inline void gather_block(const T* matrix, Index ld, const int32_t* index, const T* value,
                                Index count, T* out, Index n) {
  typedef typename Vector<T>::type V;
  V sum[N];
#pragma GCC unroll 8
  for (int k = 0; k < N; k++) sum[k] = V{};
  for (Index i = 0; i < count; i++) {
    const T* row = matrix + index[i] * ld;
    const T v = value[i];
#pragma GCC unroll 8
    for (int k = 0; k < N; k++) sum[k] += v * load<V>(row + k * Vector<T>::size);
  }
  __builtin_memcpy(out, sum, size_t(n) * sizeof(T));
}

template <class T>
static void gather(const T* matrix, Index ld, const int32_t* index, const T* value, Index count, T* out,
                   Index n) {
  const Index block = 8 * Vector<T>::size;
  Index j = 0;
  for (; j + block <= n; j += block)
    gather_block<8>(matrix + j, ld, index, value, count, out + j, block);
  const Index rest = n - j, vectors = (rest + Vector<T>::size - 1) / Vector<T>::size;
  matrix += j;
  out += j;
  switch (vectors) {
    case 1: gather_block<1>(matrix, ld, index, value, count, out, rest); break;
    case 2: gather_block<2>(matrix, ld, index, value, count, out, rest); break;
    case 3: gather_block<3>(matrix, ld, index, value, count, out, rest); break;
    case 4: gather_block<4>(matrix, ld, index, value, count, out, rest); break;
    case 5: gather_block<5>(matrix, ld, index, value, count, out, rest); break;
    case 6: gather_block<6>(matrix, ld, index, value, count, out, rest); break;
    case 7: gather_block<7>(matrix, ld, index, value, count, out, rest); break;
    case 8: gather_block<8>(matrix, ld, index, value, count, out, rest); break;
    default: break;
  }
}

// matrix[index[i]] += value[i] * row.
template <class T>
static void scatter(T* matrix, Index ld, const int32_t* index, const T* value, Index count,
                    const T* row, Index n) {
  for (Index i = 0; i < count; i++) {
    T* __restrict__ to = matrix + index[i] * ld;
    const T v = value[i];
    for (Index j = 0; j < n; j++) to[j] += v * row[j];
  }
}

// ---------------------------------------------------------------- a recurrent unit

// Memory of one thread for the length of a call; it stays with the thread.
class Scratch {
 public:
  Scratch() { position() = 0; }
  template <class T>
  T* take(Index count) {
    const size_t bytes = (size_t(count) * sizeof(T) + 127) / 64 * 64;
    Blocks& all = blocks();
    if (position() == all.list.size()) all.list.push_back({nullptr, 0});
    Block& block = all.list[position()++];
    if (block.bytes < bytes) {
      std::free(block.memory);
      block = {std::malloc(bytes + 64), bytes};
    }
    return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(block.memory) + 63) / 64 * 64);
  }
  template <class T>
  T* zeros(Index count) {
    T* p = take<T>(count);
    std::fill(p, p + count, T(0));
    return p;
  }

 private:
  struct Block {
    void* memory;
    size_t bytes;
  };
  struct Blocks {
    std::vector<Block> list;
    ~Blocks() {
      for (Block& block : list) std::free(block.memory);
    }
  };
  static Blocks& blocks() {
    static thread_local Blocks all;
    return all;
  }
  static size_t& position() {
    static thread_local size_t p = 0;
    return p;
  }
};

static const Index BLOCK = 2 * TILE_ROWS;  // trials whose bin is done while it is in the nearest cache

// What all threads need of a unit's weights.
template <class T>
struct Unit {
  Index size;
  const T* bias;                     // (3H)
  Factor<T> to_zr, to_n;             // (H, 2H), (H, H)
  Factor<T> from_zr, from_n;         // (2H, H), (H, H)
  bool clips;
  T clip;
  // For steps forward if there is a bias, else for steps back.
  Unit(Index size, const T* weight, const T* bias, bool clips, double clip)
      : size(size), bias(bias), clips(clips), clip(T(clip)) {
    const T* weight_n = weight + 2 * size * size;
    if (bias) {
      to_zr = Factor<T>(size, 2 * size, weight, size, true);
      to_n = Factor<T>(size, size, weight_n, size, true);
    } else {
      from_zr = Factor<T>(2 * size, size, weight, size, false);
      from_n = Factor<T>(size, size, weight_n, size, false);
    }
  }

  // Turn projected inputs without bias into gates (rows, 3H), and write the states after the bin.
  void step(Index rows, T* gates, const T* before, T* after, T* reset) const {
    const Index h = size, block = OWN ? BLOCK : rows;
    for (Index i = 0; i < rows; i += block)
      step_block(std::min(block, rows - i), gates + i * 3 * h, before + i * h, after + i * h, reset);
  }

  // From the gradient of the state after a bin (rows, H) to those of the gates and of the state
  // before it (in `carry`); also copy that state, and its product with the reset gate, to rows that
  // the gradients of the weights are made from.
  void back(Index rows, const T* gates, const T* before, T* carry, T* grads, T* states, T* resets,
            T* grad_reset, T* grad_bias) const {
    const Index h = size, block = OWN ? BLOCK : rows;
    for (Index i = 0; i < rows; i += block)
      back_block(std::min(block, rows - i), gates + i * 3 * h, before + i * h, carry + i * h,
                 grads + i * 3 * h, states + i * h, resets + i * h, grad_reset, grad_bias);
  }

  void weight_gradient(Index rows, const T* grads, const T* states, const T* resets,
                       T* grad_weight) const {
    const Index h = size;
    add_outer(2 * h, h, rows, grads, 3 * h, states, h, grad_weight, h);
    add_outer(h, h, rows, grads + 2 * h, 3 * h, resets, h, grad_weight + 2 * h * h, h);
  }

 private:
  void step_block(Index rows, T* gates, const T* before, T* after, T* reset) const {
    const Index h = size;
    to_zr.multiply(rows, before, h, true, gates, 3 * h);
    for (Index i = 0; i < rows; i++) {
      T* __restrict__ zr = gates + i * 3 * h;
      const T *r = zr + h, *old = before + i * h;
      T* __restrict__ out = reset + i * h;
      for (Index j = 0; j < 2 * h; j++) zr[j] = sigmoid(zr[j] + bias[j]);
      for (Index j = 0; j < h; j++) out[j] = r[j] * old[j];
    }
    to_n.multiply(rows, reset, h, true, gates + 2 * h, 3 * h);
    for (Index i = 0; i < rows; i++) {
      const T *z = gates + i * 3 * h, *old = before + i * h, *b = bias + 2 * h;
      T* __restrict__ n = gates + i * 3 * h + 2 * h;
      T* __restrict__ out = after + i * h;
#pragma GCC ivdep
      for (Index j = 0; j < h; j++) {
        const T value = hyperbolic(n[j] + b[j]);
        n[j] = value;
        out[j] = value + z[j] * (old[j] - value);
      }
      if (clips)
        for (Index j = 0; j < h; j++) out[j] = std::min(std::max(out[j], -clip), clip);
    }
  }

  void back_block(Index rows, const T* gates, const T* before, T* carry, T* grads, T* states, T* resets,
                  T* grad_reset, T* grad_bias) const {
    const Index h = size;
    for (Index i = 0; i < rows; i++) {
      const T *z = gates + i * 3 * h, *r = z + h, *n = r + h, *old = before + i * h;
      T *d = carry + i * h, *dz = grads + i * 3 * h, *dn = dz + 2 * h;
      T *state = states + i * h, *reset = resets + i * h;
      T *bias_z = grad_bias, *bias_n = grad_bias + 2 * h;
      if (clips)
        for (Index j = 0; j < h; j++) {
          const T free = n[j] + z[j] * (old[j] - n[j]);
          d[j] = free > clip || free < -clip ? T(0) : d[j];
        }
#pragma GCC ivdep
      for (Index j = 0; j < h; j++) {
        const T rest = d[j] * (1 - z[j]);
        const T to_z = rest * z[j] * (old[j] - n[j]), to_n = rest * (1 - n[j] * n[j]);
        dz[j] = to_z;
        dn[j] = to_n;
        bias_z[j] += to_z;
        bias_n[j] += to_n;
        d[j] *= z[j];
        state[j] = old[j];
        reset[j] = r[j] * old[j];
      }
    }
    from_n.multiply(rows, grads + 2 * h, 3 * h, false, grad_reset, h);
    for (Index i = 0; i < rows; i++) {
      const T *r = gates + i * 3 * h + h, *reset = resets + i * h, *from = grad_reset + i * h;
      T *d = carry + i * h, *dr = grads + i * 3 * h + h, *bias_r = grad_bias + h;
#pragma GCC ivdep
      for (Index j = 0; j < h; j++) {
        const T to_r = from[j] * reset[j] * (1 - r[j]);
        dr[j] = to_r;
        bias_r[j] += to_r;
        d[j] += from[j] * r[j];
      }
    }
    from_zr.multiply(rows, grads, 3 * h, true, carry, h);
  }
};

// ---------------------------------------------------------------- threads

static const Index STRIP = OWN ? 32 : 256;  // trials that are stepped together, to fit the cache
static const Index ROWS = OWN ? 128 : 512;  // trials times bins behind one product for a weight gradient

static Index n_chunks(Index n_trials, int threads) {
  return std::max<Index>(1, std::min<Index>(threads, n_trials));
}

// Call work(first trial, trials, chunk) for strips of trials; those of a chunk one after the other.
template <class Work>
static void divide(Index n_trials, int threads, const Work& work) {
  const Index chunks = n_chunks(n_trials, threads);
#ifdef _OPENMP
#pragma omp parallel for num_threads(int(chunks)) schedule(static, 1)
#endif
  for (Index c = 0; c < chunks; c++) {
    const int before = set_threads && chunks > 1 ? set_threads(1) : 0;
    const Index last = n_trials * (c + 1) / chunks;
    for (Index first = n_trials * c / chunks; first < last; first += STRIP)
      work(first, std::min(STRIP, last - first), c);
    if (set_threads && chunks > 1) set_threads(before);
  }
}

// Sums of every chunk, which are added up in the order of the chunks whatever thread had them.
template <class T>
class Sums {
 public:
  Sums(Index chunks, Index size) : size_(size), parts_(size_t(chunks)) {}
  T* of(Index chunk) {
    Array<T>& part = parts_[size_t(chunk)];
    part.resize(size_t(size_), T(0));
    return part.data();
  }
  void add_up(T* out) const {
    std::fill(out, out + size_, T(0));
    for (const Array<T>& part : parts_)
      for (size_t i = 0; i < part.size(); i++) out[i] += part[i];
  }

 private:
  Index size_;
  std::vector<Array<T>> parts_;
};

template <class T>
static void add_rows(Index rows, Index n, const T* from, Index ld, T* to) {
  if (!from) return;
  for (Index i = 0; i < rows; i++) {
    const T* __restrict__ f = from + i * ld;
    T* __restrict__ o = to + i * n;
    for (Index j = 0; j < n; j++) o[j] += f[j];
  }
}

template <class T>
static void copy_rows(Index rows, Index n, const T* from, Index from_ld, T* to, Index to_ld) {
  for (Index i = 0; i < rows; i++)
    std::memcpy(to + i * to_ld, from + i * from_ld, size_t(n) * sizeof(T));
}

// to = from * keep * scale; without `keep`, a copy.
template <class T>
static void masked(Index rows, Index n, const T* from, const uint8_t* keep, T scale, T* to,
                   Index to_ld) {
  if (!keep) return copy_rows(rows, n, from, n, to, to_ld);
  for (Index i = 0; i < rows; i++) {
    const T* __restrict__ f = from + i * n;
    const uint8_t* __restrict__ k = keep + i * n;
    T* __restrict__ o = to + i * to_ld;
    for (Index j = 0; j < n; j++) o[j] = T(k[j]) * scale * f[j];
  }
}

// to += from * keep * scale.
template <class T>
static void add_masked(Index n, const T* __restrict__ from, const uint8_t* __restrict__ keep, T scale,
                       T* __restrict__ to) {
  for (Index i = 0; i < n; i++) to[i] += T(keep[i]) * scale * from[i];
}

// ---------------------------------------------------------------- recurrent unit over time

struct GRUSizes {
  Index trials, bins, inputs, units;
  Index input_trial, input_bin;            // strides of the inputs (B, T, D)
  Index grad_bin, grad_trial;              // strides of the gradient of the states (T, B, H)
  int64_t reverse, clips, threads;
  double clip;
};

// Inputs without their zeros: those of trial b in bin t are first[t B + b] to first[t B + b + 1].
template <class T>
struct Sparse {
  const int32_t *first, *index;
  const T* value;
};

// Write where every row would begin; return the number of all that is not zero.
template <class T>
static Index count_inputs(const GRUSizes& s, const T* inputs, int32_t* first) {
  divide(s.trials, int(s.threads), [&](Index from, Index rows, Index) {
    for (Index t = 0; t < s.bins; t++)
      for (Index b = from; b < from + rows; b++) {
        const T* row = inputs + b * s.input_trial + t * s.input_bin;
        int32_t count = 0;
        for (Index j = 0; j < s.inputs; j++) count += row[j] != 0;
        first[t * s.trials + b + 1] = count;
      }
  });
  Index total = first[0] = 0;
  for (Index i = 1; i <= s.trials * s.bins; i++) first[i] = int32_t(total += first[i]);
  return total;
}

template <class T>
static void compress_inputs(const GRUSizes& s, const T* inputs, const int32_t* first,
                            int32_t* index, T* value) {
  const Index group = 8;  // are looked at together, as mostly all of them are zero
  divide(s.trials, int(s.threads), [&](Index from, Index rows, Index) {
    for (Index t = 0; t < s.bins; t++)
      for (Index b = from; b < from + rows; b++) {
        const T* row = inputs + b * s.input_trial + t * s.input_bin;
        Index at = first[t * s.trials + b];
        for (Index j = 0; j < s.inputs; j += group) {
          const Index end = std::min(j + group, s.inputs);
          int any = 0;
          if (end - j == group)
            for (Index k = 0; k < group; k++) any |= row[j + k] != 0;
          else
            any = 1;
          if (!any) continue;
          for (Index k = j; k < end; k++)
            if (row[k] != 0) {
              index[at] = int32_t(k);
              value[at++] = row[k];
            }
        }
      }
  });
}

template <class T>
static void gru_forward(const GRUSizes& s, const T* inputs, const T* weight_ih, const T* weight_hh,
                        const T* bias, const Sparse<T>& sparse, T* states, T* gates) {
  const Index h = s.units, d = s.inputs, b = s.trials;
  const Unit<T> unit(h, weight_hh, bias, s.clips != 0, s.clip);
  const Factor<T> projection(sparse.first ? 0 : d, 3 * h, weight_ih, d, true);
  const Index ld = (3 * h + Vector<T>::size - 1) / Vector<T>::size * Vector<T>::size;
  Array<T> by_input;
  if (sparse.first) by_input = transpose(weight_ih, 3 * h, d, d, Vector<T>::size);
  divide(b, int(s.threads), [&](Index first, Index rows, Index) {
    Scratch scratch;
    T* reset = scratch.take<T>(rows * h);
    T* unsaved = gates ? nullptr : scratch.take<T>(rows * 3 * h);
    for (Index k = 0; k < s.bins; k++) {
      const Index t = s.reverse ? s.bins - 1 - k : k;
      const T* x = inputs + first * s.input_trial + t * s.input_bin;
      T* g = gates ? gates + (t * b + first) * 3 * h : unsaved;
      if (sparse.first)
        for (Index i = 0; i < rows; i++) {
          const int32_t* at = sparse.first + t * b + first + i;
          gather(by_input.data(), ld, sparse.index + at[0], sparse.value + at[0], at[1] - at[0],
                 g + i * 3 * h, 3 * h);
        }
      else
        projection.multiply(rows, x, s.input_trial, false, g, 3 * h);
      const T* before = states + ((s.reverse ? t + 1 : t) * b + first) * h;
      T* after = states + ((s.reverse ? t : t + 1) * b + first) * h;
      unit.step(rows, g, before, after, reset);
    }
  });
}

template <class T>
static void gru_backward(const GRUSizes& s, const T* inputs, const T* weight_ih,
                         const T* weight_hh, const Sparse<T>& sparse, const T* states,
                         const T* gates, const T* grad_states, T* carry, T* grad_inputs, T* grad_ih, T* grad_hh, T* grad_bias) {
  const Index h = s.units, d = s.inputs, b = s.trials;
  const Unit<T> unit(h, weight_hh, nullptr, s.clips != 0, s.clip);
  const Factor<T> to_inputs(grad_inputs ? 3 * h : 0, d, weight_ih, d, false);
  const Index chunks = n_chunks(b, int(s.threads));
  Sums<T> sums_ih(chunks, 3 * h * d), sums_hh(chunks, 3 * h * h), sums_bias(chunks, 3 * h);
  divide(b, int(s.threads), [&](Index first, Index rows, Index chunk) {
    Scratch scratch;
    const Index slots = std::max<Index>(1, std::min(s.bins, ROWS / rows));
    T* own_ih = sums_ih.of(chunk);  // transposed, (D, 3H), where inputs are sparse
    T* own_hh = sums_hh.of(chunk);
    T* own_bias = sums_bias.of(chunk);
    T* grads = scratch.take<T>(slots * rows * 3 * h);
    T* olds = scratch.take<T>(slots * rows * h);
    T* resets = scratch.take<T>(slots * rows * h);
    T* dense = sparse.first ? nullptr : scratch.take<T>(slots * rows * d);
    T* grad_reset = scratch.take<T>(rows * h);
    T* own_carry = carry + first * h;
    Index slot = 0;
    for (Index k = s.bins - 1; k >= 0; k--) {
      const Index t = s.reverse ? s.bins - 1 - k : k;
      const T* x = inputs + first * s.input_trial + t * s.input_bin;
      const T* g = gates + (t * b + first) * 3 * h;
      const T* before = states + ((s.reverse ? t + 1 : t) * b + first) * h;
      T* dg = grads + slot * rows * 3 * h;
      if (grad_states)
        add_rows(rows, h, grad_states + t * s.grad_bin + first * s.grad_trial, s.grad_trial,
                 own_carry);
      unit.back(rows, g, before, own_carry, dg, olds + slot * rows * h, resets + slot * rows * h,
                grad_reset, own_bias);
      if (sparse.first)
        for (Index i = 0; i < rows; i++) {
          const int32_t* at = sparse.first + t * b + first + i;
          scatter(own_ih, 3 * h, sparse.index + at[0], sparse.value + at[0], at[1] - at[0],
                  dg + i * 3 * h, 3 * h);
        }
      else
        copy_rows(rows, d, x, s.input_trial, dense + slot * rows * d, d);
      if (grad_inputs)
        to_inputs.multiply(rows, dg, 3 * h, false, grad_inputs + (first * s.bins + t) * d,
                           s.bins * d);
      if (++slot == slots || k == 0) {
        unit.weight_gradient(slot * rows, grads, olds, resets, own_hh);
        if (!sparse.first)
          add_outer(3 * h, d, slot * rows, grads, 3 * h, dense, d, own_ih, d);
        slot = 0;
      }
    }
  });
  sums_hh.add_up(grad_hh);
  sums_bias.add_up(grad_bias);
  if (!sparse.first) return sums_ih.add_up(grad_ih);
  Array<T> by_input(size_t(3 * h * d));
  sums_ih.add_up(by_input.data());
  for (Index i = 0; i < 3 * h; i++)
    for (Index j = 0; j < d; j++) grad_ih[i * d + j] = by_input[size_t(j * 3 * h + i)];
}

// ---------------------------------------------------------------- decoder

struct DecoderSizes {
  Index trials, repeats, bins, ci, con, co, ext, gen, fac;
  Index ci_trial, ci_bin;                  // strides of the controller inputs (B, T, C)
  Index ext_trial, ext_bin;                // and of the external inputs (B, T, E)
  int64_t clips_con, clips_gen, threads;
  double clip, scale;
};

template <class T>
struct DecoderArrays {
  const T *ci, *ext;
  const T *con_ih, *con_hh, *con_bias, *co_weight, *co_bias, *gen_ih, *gen_hh, *gen_bias, *readout;
  const T* noise;
  const uint8_t *keep_f, *keep_g;
  T *gen_states, *con_states, *factors, *co, *co_stds, *gen_inputs, *gen_gates, *con_gates;
};

template <class T>
struct DecoderGradients {
  // Of what the decoder reports, (T, B, ...) with strides of bin and trial; null where unused.
  const T* outer[6];
  Index bin[6], trial[6];
  T *gen_0, *con_0, *fac_0, *ci, *ext;     // ci has the strides of the controller inputs
  T *con_ih, *con_hh, *con_bias, *co_weight, *co_bias, *gen_ih, *gen_hh, *gen_bias, *readout;
};
enum { GEN_STATES, CON_STATES, FACTORS, CO_MEANS, CO_STDS, GEN_INPUTS };

template <class T>
static void decoder_forward(const DecoderSizes& s, const DecoderArrays<T>& a) {
  const Index b = s.trials, n_in = s.co + s.ext, g3 = 3 * s.gen, c3 = 3 * s.con;
  const Index con_in = s.ci + s.fac;
  const bool use_con = s.con > 0;
  const T scale = T(s.scale);
  const Unit<T> gen(s.gen, a.gen_hh, a.gen_bias, s.clips_gen != 0, s.clip);
  const Unit<T> con(s.con, a.con_hh, a.con_bias, s.clips_con != 0, s.clip);
  const Factor<T> to_gen(n_in, g3, a.gen_ih, n_in, true);
  const Factor<T> to_fac(s.gen, s.fac, a.readout, s.gen, true);
  const Factor<T> ci_to_con(s.ci, c3, a.con_ih, con_in, true);
  const Factor<T> fac_to_con(use_con ? s.fac : 0, c3, a.con_ih + s.ci, con_in, true);
  const Factor<T> to_co(s.con, 2 * s.co, a.co_weight, s.con, true);
  divide(b, int(s.threads), [&](Index first, Index rows, Index) {
    Scratch scratch;
    T* reset = scratch.take<T>(rows * std::max(s.gen, s.con));
    T* kept_f = scratch.take<T>(rows * s.fac);
    T* kept_g = scratch.take<T>(rows * s.gen);
    T* gen_unsaved = a.gen_gates ? nullptr : scratch.take<T>(rows * g3);
    T* shared = use_con && s.repeats > 1 ? scratch.take<T>(rows * c3) : nullptr;
    const auto owner = [&](Index trial) { return trial / s.repeats; };
    T* con_unsaved = a.con_gates || !use_con ? nullptr : scratch.take<T>(rows * c3);
    for (Index t = 0; t < s.bins; t++) {
      const Index row = t * b + first, next = row + b;
      T* inputs = a.gen_inputs + row * n_in;
      copy_rows(rows, s.ext, a.ext + first * s.ext_trial + t * s.ext_bin, s.ext_trial,
                inputs + s.co, n_in);
      if (use_con) {
        T* gates = a.con_gates ? a.con_gates + row * c3 : con_unsaved;
        // Samples of a trial share its controller inputs, and so what these are projected to.
        T* projected = s.repeats > 1 ? shared : gates;
        ci_to_con.multiply(owner(first + rows - 1) + 1 - owner(first),
                           a.ci + owner(first) * s.ci_trial + t * s.ci_bin, s.ci_trial, false,
                           projected, c3);
        if (s.repeats > 1)
          for (Index i = 0; i < rows; i++)
            copy_rows(1, c3, shared + (owner(first + i) - owner(first)) * c3, c3,
                      gates + i * c3, c3);
        const T* factors = a.factors + row * s.fac;
        if (a.keep_f) {
          masked(rows, s.fac, factors, a.keep_f + row * s.fac, scale, kept_f, s.fac);
          factors = kept_f;
        }
        fac_to_con.multiply(rows, factors, s.fac, true, gates, c3);
        T* after = a.con_states + next * s.con;
        con.step(rows, gates, a.con_states + row * s.con, after, reset);
        T* co = a.co + row * 2 * s.co;
        to_co.multiply(rows, after, s.con, false, co, 2 * s.co);
        for (Index i = 0; i < rows; i++)
          for (Index j = 0; j < s.co; j++) {
            T* out = co + i * 2 * s.co;
            const Index k = (row + i) * s.co + j;
            out[j] += a.co_bias[j];
            out[s.co + j] += a.co_bias[s.co + j];
            const T std = exponential(T(0.5) * out[s.co + j]);
            a.co_stds[k] = std;
            inputs[i * n_in + j] = a.noise ? out[j] + std * a.noise[k] : out[j];
          }
      }
      T* gates = a.gen_gates ? a.gen_gates + row * g3 : gen_unsaved;
      to_gen.multiply(rows, inputs, n_in, false, gates, g3);
      const T* states = a.gen_states + next * s.gen;
      gen.step(rows, gates, a.gen_states + row * s.gen, a.gen_states + next * s.gen, reset);
      if (a.keep_g) {
        masked(rows, s.gen, states, a.keep_g + row * s.gen, scale, kept_g, s.gen);
        states = kept_g;
      }
      to_fac.multiply(rows, states, s.gen, false, a.factors + next * s.fac, s.fac);
    }
  });
}

template <class T>
static void decoder_backward(const DecoderSizes& s, const DecoderArrays<T>& a,
                             const DecoderGradients<T>& d) {
  const Index b = s.trials, n_in = s.co + s.ext, g3 = 3 * s.gen, c3 = 3 * s.con, co2 = 2 * s.co;
  const Index con_in = s.ci + s.fac;
  const bool use_con = s.con > 0;
  const T scale = T(s.scale);
  const Unit<T> gen(s.gen, a.gen_hh, nullptr, s.clips_gen != 0, s.clip);
  const Unit<T> con(s.con, a.con_hh, nullptr, s.clips_con != 0, s.clip);
  const Factor<T> from_fac(s.fac, s.gen, a.readout, s.gen, false);
  const Factor<T> to_gen_in(g3, n_in, a.gen_ih, n_in, false);
  const Factor<T> from_co(co2, s.con, a.co_weight, s.con, false);
  const Factor<T> con_to_ci(d.ci ? c3 : 0, s.ci, a.con_ih, con_in, false);
  const Factor<T> con_to_fac(c3, s.fac, a.con_ih + s.ci, con_in, false);
  const Index chunks = n_chunks(b, int(s.threads));
  Sums<T> gen_ih(chunks, g3 * n_in), gen_hh(chunks, g3 * s.gen), gen_bias(chunks, g3);
  Sums<T> con_ih(chunks, c3 * con_in), con_hh(chunks, c3 * s.con), con_bias(chunks, c3);
  Sums<T> co_weight(chunks, co2 * s.con), co_bias(chunks, co2), readout(chunks, s.fac * s.gen);
  divide(b, int(s.threads), [&](Index first, Index rows, Index chunk) {
    Scratch scratch;
    const Index slots = std::max<Index>(1, std::min(s.bins, ROWS / rows)), all = slots * rows;
    T *own_gen_ih = gen_ih.of(chunk), *own_gen_hh = gen_hh.of(chunk);
    T *own_gen_bias = gen_bias.of(chunk), *own_readout = readout.of(chunk);
    T *own_con_ih = con_ih.of(chunk), *own_con_hh = con_hh.of(chunk);
    T *own_con_bias = con_bias.of(chunk), *own_co_weight = co_weight.of(chunk);
    T* own_co_bias = co_bias.of(chunk);
    T *gen_grads = scratch.take<T>(all * g3), *gen_olds = scratch.take<T>(all * s.gen);
    T *gen_resets = scratch.take<T>(all * s.gen), *gen_ins = scratch.take<T>(all * n_in);
    T *fac_grads = scratch.take<T>(all * s.fac), *gen_kept = scratch.take<T>(all * s.gen);
    T *con_grads = scratch.take<T>(all * c3), *con_olds = scratch.take<T>(all * s.con);
    T *con_resets = scratch.take<T>(all * s.con), *con_ins = scratch.take<T>(all * con_in);
    T *co_grads = scratch.take<T>(all * co2), *con_news = scratch.take<T>(all * s.con);
    T* grad_reset = scratch.take<T>(rows * std::max(s.gen, s.con));
    T* grad_kept = scratch.take<T>(rows * s.gen);
    T* grad_in = scratch.take<T>(rows * n_in);
    T* carry_f = scratch.zeros<T>(rows * s.fac);
    T* carry_g = d.gen_0 + first * s.gen;
    T* carry_c = use_con ? d.con_0 + first * s.con : nullptr;
    std::fill(carry_g, carry_g + rows * s.gen, T(0));
    if (use_con) std::fill(carry_c, carry_c + rows * s.con, T(0));
    Index slot = 0;
    const auto outer = [&](int which, Index t) {
      return d.outer[which] ? d.outer[which] + t * d.bin[which] + first * d.trial[which] : nullptr;
    };
    for (Index t = s.bins - 1; t >= 0; t--) {
      const Index row = t * b + first, next = row + b, at = slot * rows;
      // Factors, to the generator's state.
      T* df = fac_grads + at * s.fac;
      std::memcpy(df, carry_f, size_t(rows * s.fac) * sizeof(T));
      add_rows(rows, s.fac, outer(FACTORS, t), d.trial[FACTORS], df);
      const uint8_t* keep_g = a.keep_g ? a.keep_g + row * s.gen : nullptr;
      masked(rows, s.gen, a.gen_states + next * s.gen, keep_g, scale, gen_kept + at * s.gen, s.gen);
      if (keep_g) {
        from_fac.multiply(rows, df, s.fac, false, grad_kept, s.gen);
        add_masked(rows * s.gen, grad_kept, keep_g, scale, carry_g);
      } else {
        from_fac.multiply(rows, df, s.fac, true, carry_g, s.gen);
      }
      add_rows(rows, s.gen, outer(GEN_STATES, t), d.trial[GEN_STATES], carry_g);
      // Generator, to its inputs.
      T* dg = gen_grads + at * g3;
      gen.back(rows, a.gen_gates + row * g3, a.gen_states + row * s.gen, carry_g, dg,
               gen_olds + at * s.gen, gen_resets + at * s.gen, grad_reset, own_gen_bias);
      std::memcpy(gen_ins + at * n_in, a.gen_inputs + row * n_in, size_t(rows * n_in) * sizeof(T));
      if (use_con || d.ext) {
        to_gen_in.multiply(rows, dg, g3, false, grad_in, n_in);
        add_rows(rows, n_in, outer(GEN_INPUTS, t), d.trial[GEN_INPUTS], grad_in);
      }
      if (d.ext)
        copy_rows(rows, s.ext, grad_in + s.co, n_in, d.ext + (first * s.bins + t) * s.ext,
                  s.bins * s.ext);
      if (use_con) {
        // The sample, to the controller's state.
        T* dco = co_grads + at * co2;
        const T *to_mean = outer(CO_MEANS, t), *to_std = outer(CO_STDS, t);
        for (Index i = 0; i < rows; i++)
          for (Index j = 0; j < s.co; j++) {
            const Index k = (row + i) * s.co + j;
            const T grad = grad_in[i * n_in + j];
            T grad_std = a.noise ? grad * a.noise[k] : T(0);
            if (to_std) grad_std += to_std[i * d.trial[CO_STDS] + j];
            const T grad_mean = grad + (to_mean ? to_mean[i * d.trial[CO_MEANS] + j] : T(0));
            const T grad_logvar = T(0.5) * a.co_stds[k] * grad_std;
            dco[i * co2 + j] = grad_mean;
            dco[i * co2 + s.co + j] = grad_logvar;
            own_co_bias[j] += grad_mean;
            own_co_bias[s.co + j] += grad_logvar;
          }
        from_co.multiply(rows, dco, co2, true, carry_c, s.con);
        add_rows(rows, s.con, outer(CON_STATES, t), d.trial[CON_STATES], carry_c);
        std::memcpy(con_news + at * s.con, a.con_states + next * s.con,
                    size_t(rows * s.con) * sizeof(T));
        // Controller, to its inputs.
        T* dc = con_grads + at * c3;
        con.back(rows, a.con_gates + row * c3, a.con_states + row * s.con, carry_c, dc,
                 con_olds + at * s.con, con_resets + at * s.con, grad_reset, own_con_bias);
        const Index ci = first * s.ci_trial + t * s.ci_bin;
        if (d.ci)
          con_to_ci.multiply(rows, dc, c3, false, d.ci + ci, s.ci_trial);
        const uint8_t* keep_f = a.keep_f ? a.keep_f + row * s.fac : nullptr;
        con_to_fac.multiply(rows, dc, c3, false, carry_f, s.fac);
        if (keep_f) masked(rows, s.fac, carry_f, keep_f, scale, carry_f, s.fac);
        copy_rows(rows, s.ci, a.ci + ci, s.ci_trial, con_ins + at * con_in, con_in);
        masked(rows, s.fac, a.factors + row * s.fac, keep_f, scale, con_ins + at * con_in + s.ci,
               con_in);
      }
      if (++slot < slots && t > 0) continue;
      const Index n = slot * rows;
      slot = 0;
      gen.weight_gradient(n, gen_grads, gen_olds, gen_resets, own_gen_hh);
      add_outer(g3, n_in, n, gen_grads, g3, gen_ins, n_in, own_gen_ih, n_in);
      add_outer(s.fac, s.gen, n, fac_grads, s.fac, gen_kept, s.gen, own_readout, s.gen);
      if (!use_con) continue;
      con.weight_gradient(n, con_grads, con_olds, con_resets, own_con_hh);
      add_outer(c3, con_in, n, con_grads, c3, con_ins, con_in, own_con_ih, con_in);
      add_outer(co2, s.con, n, co_grads, co2, con_news, s.con, own_co_weight, s.con);
    }
    std::memcpy(d.fac_0 + first * s.fac, carry_f, size_t(rows * s.fac) * sizeof(T));
  });
  gen_ih.add_up(d.gen_ih);
  gen_hh.add_up(d.gen_hh);
  gen_bias.add_up(d.gen_bias);
  readout.add_up(d.readout);
  if (!use_con) return;
  con_ih.add_up(d.con_ih);
  con_hh.add_up(d.con_hh);
  con_bias.add_up(d.con_bias);
  co_weight.add_up(d.co_weight);
  co_bias.add_up(d.co_bias);
}

// ---------------------------------------------------------------- read-out of samples

struct RatesSizes {
  Index trials, samples, bins, factors, channels;
  Index row, bin;                          // strides of the factors (trials samples, T, F)
  int64_t threads;
};

// rates (trials, T, N): the mean over samples of exp(W f + b).
template <class T>
static void mean_rates(const RatesSizes& s, const T* factors, const T* weight, const T* bias,
                       T* rates) {
  const Index n = s.channels;
  const Factor<T> readout(s.factors, n, weight, s.factors, true);
  divide(s.trials, int(s.threads), [&](Index first, Index trials, Index) {
    Scratch scratch;
    T* logs = scratch.take<T>(STRIP * n);
    for (Index trial = first; trial < first + trials; trial++)
      for (Index t = 0; t < s.bins; t++) {
        T* __restrict__ mean = rates + (trial * s.bins + t) * n;
        std::fill(mean, mean + n, T(0));
        for (Index sample = 0; sample < s.samples; sample += STRIP) {
          const Index rows = std::min(STRIP, s.samples - sample);
          readout.multiply(rows, factors + (trial * s.samples + sample) * s.row + t * s.bin, s.row,
                           false, logs, n);
          for (Index i = 0; i < rows; i++) {
            const T* __restrict__ row = logs + i * n;
            for (Index j = 0; j < n; j++) mean[j] += exponential(row[j] + bias[j]);
          }
        }
        for (Index j = 0; j < n; j++) mean[j] /= T(s.samples);
      }
  });
}

// ---------------------------------------------------------------- what Python calls

extern "C" {

int lfads_needs_blas() { return !OWN; }

void lfads_start(Sgemm s, Dgemm d, SetThreads threads) {
  sgemm = s;
  dgemm = d;
  set_threads = threads;
}

int lfads_threaded() {
#ifdef _OPENMP
  return 1;
#else
  return 0;
#endif
}

#define FOR(TYPE, NAME)                                                                           \
  int64_t lfads_count_inputs_##NAME(const GRUSizes* s, const TYPE* inputs, int32_t* first) {      \
    return count_inputs<TYPE>(*s, inputs, first);                                                 \
  }                                                                                               \
  void lfads_compress_inputs_##NAME(const GRUSizes* s, const TYPE* inputs, const int32_t* first,  \
                                    int32_t* index, TYPE* value) {                                \
    compress_inputs<TYPE>(*s, inputs, first, index, value);                                       \
  }                                                                                               \
  void lfads_gru_forward_##NAME(const GRUSizes* s, const TYPE* inputs, const TYPE* weight_ih,     \
                                const TYPE* weight_hh, const TYPE* bias, const int32_t* first,    \
                                const int32_t* index, const TYPE* value, TYPE* states,            \
                                TYPE* gates) {                                                    \
    gru_forward<TYPE>(*s, inputs, weight_ih, weight_hh, bias, {first, index, value}, states,      \
                      gates);                                                                     \
  }                                                                                               \
  void lfads_gru_backward_##NAME(const GRUSizes* s, const TYPE* inputs, const TYPE* weight_ih,    \
                                 const TYPE* weight_hh, const int32_t* first,                     \
                                 const int32_t* index, const TYPE* value, const TYPE* states,     \
                                 const TYPE* gates, const TYPE* grad_states, TYPE* carry,         \
                                 TYPE* grad_inputs, TYPE* grad_ih, TYPE* grad_hh,                 \
                                 TYPE* grad_bias) {                                               \
    gru_backward<TYPE>(*s, inputs, weight_ih, weight_hh, {first, index, value}, states, gates,    \
                       grad_states, carry, grad_inputs, grad_ih, grad_hh, grad_bias);             \
  }                                                                                               \
  void lfads_decoder_forward_##NAME(const DecoderSizes* s, const DecoderArrays<TYPE>* a) {        \
    decoder_forward<TYPE>(*s, *a);                                                                \
  }                                                                                               \
  void lfads_decoder_backward_##NAME(const DecoderSizes* s, const DecoderArrays<TYPE>* a,         \
                                     const DecoderGradients<TYPE>* d) {                           \
    decoder_backward<TYPE>(*s, *a, *d);                                                           \
  }                                                                                               \
  void lfads_mean_rates_##NAME(const RatesSizes* s, const TYPE* factors, const TYPE* weight,      \
                               const TYPE* bias, TYPE* rates) {                                   \
    mean_rates<TYPE>(*s, factors, weight, bias, rates);                                           \
  }

FOR(float, float)
FOR(double, double)
}
