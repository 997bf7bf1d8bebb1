module meshscope.dev/examples/shop

go 1.24
