terraform {
  required_version = ">= 1.11" # write-only attributes: a generated secret is never in the state

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 6.50"
    }
    random = {
      source  = "hashicorp/random"
      version = "~> 3.7"
    }
  }

  # The state names every part of the installation and holds the password that Memorystore makes: keep it in a private,
  # versioned bucket. `terraform init -backend-config=bucket=NAME` fills this in.
  backend "gcs" {
    prefix = "swnube"
  }
}

provider "google" {
  project = var.project
  region  = var.region
}
