// There only in a library that is built with CUDA: whether the ops have GPU kernels, for Python.
extern "C" __attribute__((visibility("default"))) bool tfconv_cuda() { return true; }
