// The kernel for every processor.

#include "batch.hpp"

namespace residue {

const Kernel kPortable = Batch<Portable>::kernel("portable", [] { return true; });

}  // namespace residue
