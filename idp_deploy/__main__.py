"""`python -m idp_deploy`, the same as `idp-deploy`: what `accelerate launch -m idp_deploy …` starts."""

from idp_deploy.cli import main

if __name__ == "__main__":
    main()
