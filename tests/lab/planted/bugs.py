"""All planted bugs, by where they are."""

from tests.lab.planted.calls import CALLS
from tests.lab.planted.running import RUNNING
from tests.lab.planted.store import STORE
from tests.lab.planted.transactions import TRANSACTIONS

BUGS = (*STORE, *TRANSACTIONS, *RUNNING, *CALLS)
