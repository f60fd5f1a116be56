// Products of matrices on a GPU: our kernels move bytes, and TensorFlow's cuBLAS multiplies. Plain
// C++: neither TensorFlow nor CUDA.
#ifndef TFCONV_COMMON_GPU_PRODUCT_H_
#define TFCONV_COMMON_GPU_PRODUCT_H_

#include <stdint.h>

#include <functional>

namespace tfconv {

// A matrix for each example and group: element (row, column) of one is at
// data[row * row_stride + column], and that of its transpose where it is `transposed`.
template <typename T>
struct Matrices {
  T* data;
  int64_t row_stride;
  int64_t example_stride;
  int64_t group_stride;
  bool transposed;
};

// c = a * b for each example and group, nothing of which is empty.
template <typename T>
struct MatrixProduct {
  Matrices<const T> a;  // [rows, depth]
  Matrices<const T> b;  // [depth, columns]
  Matrices<T> c;        // [rows, columns]
  int64_t rows;
  int64_t columns;
  int64_t depth;
  int64_t examples;
  int64_t groups;
};

// Multiplies on the stream that the kernels run on, where there is one example or one group.
// Returns 0 or an error.
template <typename T>
using Multiplier = std::function<int(const MatrixProduct<T>&)>;

// Calls `multiply` as few times as one stride for each matrix allows.
template <typename T>
int MultiplyAll(const Multiplier<T>& multiply, MatrixProduct<T> product) {
  const bool by_examples = product.examples < product.groups;  // one call for each
  const int64_t calls = by_examples ? product.examples : product.groups;
  (by_examples ? product.examples : product.groups) = 1;
  const auto advance = [by_examples](auto* matrices) {
    matrices->data += by_examples ? matrices->example_stride : matrices->group_stride;
  };
  for (int64_t i = 0; i < calls; ++i) {
    if (int error = multiply(product)) return error;
    advance(&product.a);
    advance(&product.b);
    advance(&product.c);
  }
  return 0;
}

// y = columns * filter of a convolution, and what follows from it. The columns of an example's group
// are a matrix; its filters lie beside those of the other groups.
template <typename T>
struct ConvProducts {
  const Multiplier<T>& multiply;
  int64_t rows;     // positions of an example, or of several that share a filter
  int64_t depth;    // taps and channels of a group
  int64_t filters;  // of all groups
  int64_t groups;
  int64_t examples;

  int Forward(const T* columns, const T* filter, T* y) const {
    return MultiplyAll(multiply, {Columns(columns), Filters(filter, depth), Filters(y, rows), rows,
                                  filters / groups, depth, examples, groups});
  }

  int BackwardColumns(const T* dy, const T* filter, T* dcolumns) const {
    return MultiplyAll(multiply, {Filters(dy, rows), Filters(filter, depth, true),
                                  Columns(dcolumns), rows, depth, filters / groups, examples,
                                  groups});
  }

  int BackwardFilter(const T* columns, const T* dy, T* dfilter) const {
    return MultiplyAll(multiply, {Columns(columns, true), Filters(dy, rows),
                                  Filters(dfilter, depth), depth, filters / groups, rows, examples,
                                  groups});
  }

 private:
  template <typename Element>
  Matrices<Element> Columns(Element* data, bool transposed = false) const {
    return {data, depth, groups * rows * depth, rows * depth, transposed};
  }

  // With all groups' filters in a row.
  template <typename Element>
  Matrices<Element> Filters(Element* data, int64_t lines, bool transposed = false) const {
    return {data, filters, lines * filters, filters / groups, transposed};
  }
};

}  // namespace tfconv

#endif  // TFCONV_COMMON_GPU_PRODUCT_H_
