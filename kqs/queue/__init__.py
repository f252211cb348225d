"""The heart: store and broker joined, and every rule of a job's life.

`rules.py` judges (pure), `admission.py` says whether a job may run now, `leases.py` knows when a run is lost, `alarm.py` wakes
what is due, `jumps.py` sees the clock go back, `dispatch.py` brings ready jobs to those who asked, `reports.py` carries the
ends of runs to the store, `queue.py` joins them.
"""
