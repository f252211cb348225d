"""The heart: store and broker joined, and every rule of a job's life.

`rules.py` judges (pure), `admission.py` says whether a job may run now, here, and keeps room of a `consumer.py` for it,
`leases.py` knows when a run is lost, `alarm.py` wakes what the `timetable.py` says is due, `dispatch.py` brings ready jobs to
those who asked, `reports.py` carries the ends of runs to the store, `housekeeping.py` does what is not urgent, with `jumps.py`
for a clock that goes back and `seeker.py` for jobs that others stored, `suspensions.py` knows the types of which none begins,
`neighbours.py` hears of other servers, `meter.py` counts and times by type, `reads.py` answers questions, `queue.py` joins
them.
"""
