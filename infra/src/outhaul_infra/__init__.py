"""The Pulumi program of Outhaul's cluster. A package stub until it is built."""
