"""The result cache: finished answers, by a digest of the request.

`port.ResultStore` is what the pipeline uses, `local` the store in memory that `vgate.frontend.app`
makes.
"""
