"""One module a framework: functions that do the same work and report at a gate.

A contestant is a function of (workload, gate). It sets itself up, then repeats its slice of work
for ever and passes the gate after each.
"""
