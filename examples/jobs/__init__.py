"""Three small applications on real input: e-mail over SMTP, statistics of a large table, thumbnails of photographs.

    python -m examples.jobs mail|flights|images submit|watch|cancel|retry|demo

Read `mail`, `flights` and `images` in this order: each has its tasks and what submits them. `command` is the command
line that the three share, `mail_server` a server to send mail to.
"""
