// As client.h.
#include "xla/client/client.h"
