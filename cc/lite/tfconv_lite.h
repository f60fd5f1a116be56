/* tfconv's ops in the TFLite interpreter: a delegate that runs the custom ops Tfconv>Involution,
 * Tfconv>DeformableAggregation, Tfconv>DeformableConv, Tfconv>DeformableSample, Tfconv>LocalAttention
 * and Tfconv>PerExampleConv on the CPU.
 *
 * Plain C. Nothing of TFLite is needed to build the library; what is created here is a
 * TfLiteDelegate as TFLite's c/common.h declares it. README.md says how to build
 * and use it on Android and iOS.
 */
#ifndef TFCONV_LITE_TFCONV_LITE_H_
#define TFCONV_LITE_TFCONV_LITE_H_

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TFCONV_LITE_EXPORT __attribute__((visibility("default")))

struct TfLiteDelegate;

/* Makes a delegate for any number of interpreters, which must not outlive it.
 *
 * num_threads: how many threads compute, the calling one among them; 0 for as many as the
 * interpreter is told to use, which is one if it is told nothing. Never more than 1024.
 *
 * Returns NULL if there is no memory.
 */
TFCONV_LITE_EXPORT struct TfLiteDelegate* tfconv_lite_create_delegate(int num_threads);

TFCONV_LITE_EXPORT void tfconv_lite_delete_delegate(struct TfLiteDelegate* delegate);

/* What TFLite's loader of external delegates looks for: Python's load_delegate, and
 * TfLiteExternalDelegateCreate in C. The only option is "num_threads"; what is wrong with one is
 * told to report_error, and NULL returned. */
TFCONV_LITE_EXPORT struct TfLiteDelegate* tflite_plugin_create_delegate(
    const char* const* options_keys, const char* const* options_values, size_t num_options,
    void (*report_error)(const char*));

TFCONV_LITE_EXPORT void tflite_plugin_destroy_delegate(struct TfLiteDelegate* delegate);

#ifdef __cplusplus
}
#endif

#endif /* TFCONV_LITE_TFCONV_LITE_H_ */
