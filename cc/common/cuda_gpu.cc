// There only in a library that is built with CUDA: whether its GPU kernels can run with the driver
// that is here, for Python. Without a driver there is no GPU to run them on, and nothing against it.
extern "C" int cudaDriverGetVersion(int* version);
extern "C" int cudaRuntimeGetVersion(int* version);

extern "C" __attribute__((visibility("default"))) bool tfconv_cuda() {
  int driver = 0;
  int runtime = 0;
  if (cudaDriverGetVersion(&driver) != 0 || cudaRuntimeGetVersion(&runtime) != 0) return false;
  return driver == 0 || driver / 1000 >= runtime / 1000;
}
