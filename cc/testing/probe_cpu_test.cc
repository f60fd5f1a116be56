#include <stdint.h>
#include <string.h>

#include "common/arena.h"
#include "common/gemm.h"
#include "common/vec.h"
#include "testing/probe.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {
namespace {

template <typename T>
void MultiplyMatrices(const T* a, bool transposed, const T* b, T* c, bool accumulate, int64_t rows,
                      int64_t depth, int64_t columns) {
  using G = Gemm<T>;
  T tile[G::kTileRows * G::kTileStride] = {};
  const int64_t tile_rows = transposed ? depth : rows;
  const int64_t tile_columns = transposed ? rows : depth;
  for (int64_t i = 0; i < tile_rows; ++i) {
    memcpy(tile + i * G::kTileStride, a + i * tile_columns,
           static_cast<size_t>(tile_columns) * sizeof(T));
  }
  T packed[Probes<T>::kMaxDepth * Probes<T>::kMaxColumns];
  PackPanels(b, columns, depth, columns, packed);
  const Product<T> product = {tile, 1, 0, depth, c, columns, accumulate};
  if (transposed) {
    Multiply<T, true>(product, rows, packed, depth, 0, columns);
  } else {
    Multiply<T, false>(product, rows, packed, depth, 0, columns);
  }
}

template <typename T>
T SumLanes(const T* vector) {
  return Simd<T>::SumLanes(Simd<T>::Load(vector));
}

template <typename T>
void SumLanesOfEach(const T* vectors, T* sums) {
  using S = Simd<T>;
  typename S::Vec loaded[S::kLanes];
  memcpy(loaded, vectors, sizeof(loaded));
  S::Store(sums, S::SumLanes(loaded));
}

template <typename T>
void AddSumsOfFour(const T* vectors, T* sums) {
  typename Simd<T>::Vec loaded[4];
  memcpy(loaded, vectors, sizeof(loaded));
  Simd<T>::AddSumsOfFour(loaded, sums);
}

template <typename T>
int64_t TakePieces(void* memory, const int64_t* counts, int number, T** pieces) {
  Arena arena(memory);
  for (int i = 0; i < number; ++i) pieces[i] = arena.Take<T>(counts[i]);
  return arena.used();
}

template <typename T>
void Fill(Probes<T>* probes) {
  *probes = {Simd<T>::kLanes,   Gemm<T>::kTileRows, MultiplyMatrices<T>, SumLanes<T>,
             SumLanesOfEach<T>, AddSumsOfFour<T>,   TakePieces<T>};
}

}  // namespace

void GetKernels(Probes<float>* probes) { Fill(probes); }
void GetKernels(Probes<double>* probes) { Fill(probes); }

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv
