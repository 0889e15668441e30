{
  description = "Flotilla: a small Rust server that runs many gRPC services";

  # Not run in CI, which has no Nix: `nix build` and `nix develop` are tried by hand.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable-small";

  outputs =
    { self, nixpkgs }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
        "aarch64-darwin"
      ];
      forEachSystem = f: nixpkgs.lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
    in
    {
      packages = forEachSystem (pkgs: {
        default = pkgs.rustPlatform.buildRustPackage {
          pname = "flotilla";
          version = (nixpkgs.lib.importTOML ./Cargo.toml).workspace.package.version;
          src = self;
          cargoLock.lockFile = ./Cargo.lock;
          cargoBuildFlags = [
            "--package"
            "flotilla"
          ];
          # The tests are `make test`'s: they want loopback, strace and a browser.
          doCheck = false;
          meta.mainProgram = "flotilla";
        };
      });

      # What `make doctor` asks for. Nix's own Rust here; rustup's is pinned by rust-toolchain.toml.
      devShells = forEachSystem (pkgs: {
        default = pkgs.mkShell {
          packages =
            with pkgs;
            [
              cargo
              clippy
              etcd
              git
              gnumake
              python3
              redis
              rustc
              rustfmt
              shellcheck
            ]
            ++ lib.optionals stdenv.hostPlatform.isLinux [
              chromium
              strace
            ];
        };
      });

      formatter = forEachSystem (pkgs: pkgs.nixfmt);
    };
}
