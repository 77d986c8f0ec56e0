"""Hash grid, radiance fields, occupancy, volume rendering, visual hull, fitting."""

import engine.kernels as _kernels  # noqa: F401  sets how OpenMP waits, before torch is imported
