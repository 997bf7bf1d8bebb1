# syntax=docker/dockerfile:1
# A static program in an image that holds nothing else but certificates of public authorities.

FROM docker.io/library/rust:1.95-alpine AS build
# Some crates bring C: cryptography, compression, the allocator.
RUN apk add --no-cache gcc musl-dev
WORKDIR /src
COPY . .
# The toolchain is the image's own; the file would make rustup fetch it again, with components that no build needs.
RUN rm -f rust-toolchain.toml
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin meshscope && install -D target/release/meshscope /out/meshscope

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/meshscope /usr/local/bin/meshscope
# A number, since the kubelet cannot tell from a name whether it is root's.
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/meshscope"]
CMD ["run"]
