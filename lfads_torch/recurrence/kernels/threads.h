// Dividing trials among threads; memory and sums that belong to one thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>
#include "matrices.h"

// Scratch memory of a thread. It is valid until the thread makes another object of this class, and
// is used again by later calls in the same thread.
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

// Number of trials that are run together through all bins, so few that their states stay in the
// cache.
static const Index STRIP = USES_BLAS ? 256 : 32;
// Rows (trials times bins) that are collected for one product of a weight's gradient.
static const Index ROWS = USES_BLAS ? 512 : 128;

static Index n_chunks(Index n_trials, int threads) {
  return std::max<Index>(1, std::min<Index>(threads, n_trials));
}

// Calls work(first trial, number of trials, chunk) for strips of trials. Chunks run in parallel,
// the strips of a chunk one after the other.
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

// One sum for each chunk. They are added up in the order of the chunks, so that the result does not
// depend on which thread had which chunk.
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

// to (rows, n) += from, whose rows have the stride `ld`; does nothing if `from` is null.
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
  if (n == 0) return;
  for (Index i = 0; i < rows; i++)
    std::memcpy(to + i * to_ld, from + i * from_ld, size_t(n) * sizeof(T));
}

// to = from * keep * scale; a copy if `keep` is null.
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
static void add_masked(Index n, const T* __restrict__ from, const uint8_t* __restrict__ keep,
                       T scale, T* __restrict__ to) {
  for (Index i = 0; i < n; i++) to[i] += T(keep[i]) * scale * from[i];
}
