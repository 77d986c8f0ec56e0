"""The one mechanism: keys, store, run context, events, report. It knows no stage; stages know no store."""
