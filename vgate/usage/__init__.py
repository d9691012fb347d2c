"""The use of API keys that can be billed: counted by frontends, folded into a ledger, read by all.

Each frontend adds up what its requests used in a file of its own (`counts`), which survives the
process. The launcher folds the files into an SQLite database (`ledger`). Who reads the use takes
both into account, so a total lags behind nothing, and is there when the server was killed.
"""

from vgate.usage.counts import CountsFile, Used
from vgate.usage.ledger import Folder, LedgerError, Row, read_usage

__all__ = ["CountsFile", "Folder", "LedgerError", "Row", "Used", "read_usage"]
