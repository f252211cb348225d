"""Ready jobs in one or more beanstalkds, which other servers and workers may share.

`link` is one connection, `trio` the three to a server, `session` what goes over them, `server` one beanstalkd, `pool` all of
them, `supply` what is offered to them and what stays in the store, `broker` the port over both.
"""

from kqs.broker.beanstalkd.broker import BeanstalkdBroker

__all__ = ["BeanstalkdBroker"]
