"""A switch's side of a call with the Python client: authorize, price, debit once.

python client.py 127.0.0.1:2001
"""

import sys
from uuid import uuid4

from common.client import JSONClient
from common.errors import RatelError

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:2001"
call = {"CstmId": "vdf", "Subject": "rif", "DestinationPrefix": "0256308200"}
hour = {"TimeStart": "2012-02-02T17:30:00Z", "TimeEnd": "2012-02-02T18:30:00Z"}

with JSONClient(address) as client:
    print("may talk, seconds:", client.call("GetMaxSessionTime", call | {"Amount": 3600}))
    cost = client.call("GetCost", call | hour)
    print("cost, cents:", cost["Cost"], "in", len(cost["Timespans"]), "spans")

    # The client gives each debit an id of its own and repeats it after a lost connection. Give one
    # yourself, and you may repeat it too, from another process as well: it happens once.
    debit = call | {"Amount": 1.5, "RequestId": str(uuid4())}
    left, again = client.call("DebitBalance", debit), client.call("DebitBalance", debit)
    print("repeated, the same credit is left:", left == again)

    many = client.call_many([("GetCost", call | hour)] * 100)
    # An error stands in the place of its answer.
    costs = [each["Cost"] for each in many if not isinstance(each, RatelError)]
    print(len(costs), "at once, cents:", sum(costs))

    try:
        client.call("DebitBalance", call | {"Subject": "nobody", "Amount": 1})
    except RatelError as error:
        print("refused:", error.name)
