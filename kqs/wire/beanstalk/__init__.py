"""beanstalkd's protocol, sans I/O: commands to bytes, bytes to replies, job types to tube names.

Source: `doc/protocol.txt` of beanstalkd 1.13. `commands` encodes, `replies` decodes, `tubes` names.
"""
