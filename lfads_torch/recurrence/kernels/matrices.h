// Matrix products: of dense matrices, and of rows that are mostly zeros with a dense matrix.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

typedef int64_t Index;

typedef void (*Sgemm)(const char*, const char*, const int*, const int*, const int*, const float*,
                      const float*, const int*, const float*, const int*, const float*, float*,
                      const int*);
typedef void (*Dgemm)(const char*, const char*, const int*, const int*, const int*, const double*,
                      const double*, const int*, const double*, const int*, const double*, double*,
                      const int*);
typedef int (*SetThreads)(int);

static Sgemm sgemm = nullptr;
static Dgemm dgemm = nullptr;
// Sets the BLAS library's number of threads for the calling thread; null where it has no such
// function.
static SetThreads set_threads = nullptr;

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

// Allocates memory that begins at a cache line. The rounding of a library's matrix product may
// depend on that, and a resumed run must round in the same way as an uninterrupted one.
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

// Bytes of a vector register, and the tile of a product that is held in registers: rows by vectors.
#if defined(__AVX512F__)
static const int BYTES = 64, TILE_ROWS = 8, TILE_VECTORS = 3;
#elif defined(__AVX2__) && defined(__FMA__)
static const int BYTES = 32, TILE_ROWS = 4, TILE_VECTORS = 3;
#else
static const int BYTES = 16, TILE_ROWS = 0, TILE_VECTORS = 0;
#endif
// Whether a BLAS library computes the products. The functions of this file are faster on small
// matrices, because a library has to rearrange its arguments in every call, and their rounding of a
// row does not depend on its position.
static const bool USES_BLAS = TILE_ROWS == 0;

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

// C (M, n) = A (M, k) B (k, N vectors), or C += A B if `add`. A is stored as (k, M) if
// `transposed`. C has only n columns, which may be fewer than those of N vectors.
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
    for (int i = 0; i < M && add; i++)
      std::memcpy(edge + i * ld, c + i * ldc, size_t(n) * sizeof(T));
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
  for (int i = 0; i < M && cut; i++) std::memcpy(c + i * ldc, edge + i * ld, size_t(n) * sizeof(T));
}

// Does what `tile` does for m rows: M at a time, and the remaining ones M / 2, M / 4, ... at a time.
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
static void tiles_of_width(Index vectors, Index m, Index n, Index k, const T* a, Index lda,
                           const T* b, Index ldb, bool add, T* c, Index ldc) {
  const int M = USES_BLAS ? 1 : TILE_ROWS;
  switch (vectors) {
    case 1:
      return tiles<T, M, 1, transposed>(m, n, k, a, lda, b, ldb, add, c, ldc);
    case 2:
      return tiles<T, M, 2, transposed>(m, n, k, a, lda, b, ldb, add, c, ldc);
    default:
      return tiles<T, M, 3, transposed>(m, n, k, a, lda, b, ldb, add, c, ldc);
  }
}

// The number of vectors of the next tile, given how many are left: 4 become 2 and 2, not 3 and 1.
static Index tile_width(Index left) {
  return left == TILE_VECTORS + 1 ? TILE_VECTORS - 1 : std::min<Index>(left, TILE_VECTORS);
}

template <class T>
static void library_product(bool transposed, Index m, Index n, Index k, const T* a, Index lda,
                            const T* b, Index ldb, bool add, T* c, Index ldc) {
  // BLAS stores matrices by columns, so that it computes the transpose of C from those of A and B.
  const int im = int(m), in = int(n), ik = int(k);
  const int ia = int(std::max<Index>(lda, 1)), ib = int(ldb), ic = int(ldc);
  const T one = 1, beta = add ? 1 : 0;
  blas("N", transposed ? "T" : "N", &in, &im, &ik, &one, b, &ib, a, &ia, &beta, c, &ic);
}

// A matrix (k, n) in the order in which products A B read their right-hand side B: panel after
// panel of as many columns as a tile has.
template <class T>
class PackedMatrix {
 public:
  PackedMatrix() = default;
  // Packs a matrix whose rows have the stride `ld`, or that is stored as its transpose (n, k).
  PackedMatrix(Index k, Index n, const T* from, Index ld, bool transposed) : k_(k), n_(n) {
    const auto at = [&](Index p, Index j) { return from[transposed ? j * ld + p : p * ld + j]; };
    if (USES_BLAS) {
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
      // The last panel ends with the matrix. Columns that it shares with the previous panel are
      // zero.
      if (first + taken * size > n) panel.first = n - panel.columns;
      values_.resize(panel.offset + size_t(k * taken * size), T(0));
      for (Index p = 0; p < k; p++)
        for (Index j = first; j < std::min(n, first + taken * size); j++)
          values_[panel.offset + size_t(p * taken * size + j - panel.first)] = at(p, j);
      panels_.push_back(panel);
      first += taken * size;
    }
    // The last panel is multiplied first, so that the previous panel then writes the columns that
    // they share.
    std::reverse(panels_.begin(), panels_.end());
  }

  // C (rows, n) = A (rows, k) times this matrix, added to C if `add`.
  void multiply(Index rows, const T* a, Index lda, bool add, T* c, Index ldc) const {
    if (rows == 0 || n_ == 0) return;
    if (k_ == 0) {
      for (Index i = 0; i < rows && !add; i++) std::fill(c + i * ldc, c + i * ldc + n_, T(0));
      return;
    }
    if (USES_BLAS)
      return library_product(false, rows, n_, k_, a, lda, values_.data(), n_, add, c, ldc);
    for (const Panel& panel : panels_)
      tiles_of_width<T, false>(panel.vectors, rows, panel.columns, k_, a, lda,
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

// C (m, n) += the transpose of A (rows, m) times B (rows, n): the gradient of a weight, from
// gradients A of what it maps B to. The memory of one vector after the end of B must be readable.
template <class T>
static void add_transposed_product(Index m, Index n, Index rows, const T* a, Index lda, const T* b,
                                   Index ldb, T* c, Index ldc) {
  if (m == 0 || n == 0 || rows == 0) return;
  if (USES_BLAS) return library_product(true, m, n, rows, a, lda, b, ldb, true, c, ldc);
  const Index size = Vector<T>::size;
  for (Index j = 0, taken; j < n; j += taken * size) {
    taken = tile_width((n - j + size - 1) / size);
    tiles_of_width<T, true>(taken, m, std::min(n - j, taken * size), rows, a, lda, b + j, ldb, true,
                            c + j, ldc);
  }
}

// The transpose of a matrix whose rows have the stride `ld`, with rows padded to a multiple of `pad`.
template <class T>
static Array<T> transpose(const T* matrix, Index rows, Index columns, Index ld, Index pad = 1) {
  const Index out_ld = (rows + pad - 1) / pad * pad;
  Array<T> out(size_t(columns * out_ld), T(0));
  for (Index i = 0; i < rows; i++)
    for (Index j = 0; j < columns; j++) out[size_t(j * out_ld + i)] = matrix[i * ld + j];
  return out;
}

// ---------------------------------------------------------------- rows with many zeros

// out = sum over i of value[i] * matrix[index[i]], for n columns that are stored in N vectors.
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

// The same for any n.
template <class T>
static void gather(const T* matrix, Index ld, const int32_t* index, const T* value, Index count,
                   T* out, Index n) {
  const Index block = 8 * Vector<T>::size;
  Index j = 0;
  for (; j + block <= n; j += block)
    gather_block<8>(matrix + j, ld, index, value, count, out + j, block);
  const Index rest = n - j, vectors = (rest + Vector<T>::size - 1) / Vector<T>::size;
  matrix += j;
  out += j;
  switch (vectors) {
    case 1:
      gather_block<1>(matrix, ld, index, value, count, out, rest);
      break;
    case 2:
      gather_block<2>(matrix, ld, index, value, count, out, rest);
      break;
    case 3:
      gather_block<3>(matrix, ld, index, value, count, out, rest);
      break;
    case 4:
      gather_block<4>(matrix, ld, index, value, count, out, rest);
      break;
    case 5:
      gather_block<5>(matrix, ld, index, value, count, out, rest);
      break;
    case 6:
      gather_block<6>(matrix, ld, index, value, count, out, rest);
      break;
    case 7:
      gather_block<7>(matrix, ld, index, value, count, out, rest);
      break;
    case 8:
      gather_block<8>(matrix, ld, index, value, count, out, rest);
      break;
    default:
      break;
  }
}

// matrix[index[i]] += value[i] * row, for every i.
template <class T>
static void scatter(T* matrix, Index ld, const int32_t* index, const T* value, Index count,
                    const T* row, Index n) {
  for (Index i = 0; i < count; i++) {
    T* __restrict__ to = matrix + index[i] * ld;
    const T v = value[i];
    for (Index j = 0; j < n; j++) to[j] += v * row[j];
  }
}
