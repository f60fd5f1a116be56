// TensorFlow's headers for kernels of XLA include this one of XLA for pointers to clients, and with
// it most of XLA: compiling it takes longer than all that is ours. Nothing here uses a client.
#ifndef TFCONV_XLA_CLIENT_CLIENT_H_
#define TFCONV_XLA_CLIENT_CLIENT_H_

#include "xla/literal.h"

namespace xla {
class Client;
class LocalClient;
}  // namespace xla

#endif  // TFCONV_XLA_CLIENT_CLIENT_H_
