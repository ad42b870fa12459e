"""For tests and benchmarks only: the pure parts of the data path, called from Python."""

include "probe_array.pxi"
include "probe_ws.pxi"
include "probe_signal.pxi"
include "probe_engine.pxi"
include "probe_crowd.pxi"
include "probe_turns.pxi"
include "probe_auth.pxi"
